"""How a process of a pod logs: lines of text, or one JSON object a line.

Agent, workers and scripts call `set_up_logs` first of all. CONCERTINA_LOG_FORMAT=json turns every
record of Python's logging into an object with `time`, `level`, `logger`, `message`, and whatever
of `namespace`, `job`, `pod`, `round` and `rank` is known by then. What a user's program prints
stays as it is.
"""

import logging
import sys
from collections.abc import Callable, Mapping

from concertina_api.log_lines import JsonFormatter

logger = logging.getLogger(__name__)

FORMAT_VARIABLE = "CONCERTINA_LOG_FORMAT"
LEVEL_VARIABLE = "CONCERTINA_LOG_LEVEL"
WORKER_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
AGENT_FORMAT = "%(asctime)s %(levelname)s agent: %(message)s"

Fact = str | int | Callable[[], str | int | None] | None
"""A value, or what to ask for it each time; None is not told."""


class Logs:
    """How this process logs."""

    def __init__(self, handler: logging.Handler, facts: dict[str, Fact], *, objects: bool) -> None:
        self._handler = handler
        self._facts = facts
        self._objects = objects

    def know(self, **facts: Fact) -> None:
        """From now on these are in every object."""
        self._facts |= facts

    def adopt(self, library: str) -> None:
        """Lines of an imported library that formats its own become objects like the others."""
        for name in list(logging.root.manager.loggerDict) if self._objects else ():
            logger = logging.getLogger(name)
            if name.partition(".")[0] == library and logger.handlers:
                logger.handlers = [self._handler]

    @property
    def line_prefix(self) -> str | None:
        """What stands before each line of a worker in its agent's output; None: torch's own.

        torch takes no empty text for an answer, and JSON allows for a space.
        """
        return " " if self._objects else None


def _known(facts: Mapping[str, Fact]) -> dict[str, object]:
    """What is known of this process by now."""
    asked = {name: fact() if callable(fact) else fact for name, fact in facts.items()}
    return {name: value for name, value in asked.items() if value is not None}


def set_up_logs(environment: Mapping[str, str], *, text: str) -> Logs:
    """Log to standard error as the environment wants it; `text` is the format of plain lines."""
    facts: dict[str, Fact] = {}
    chosen = environment.get(FORMAT_VARIABLE) or "text"
    objects = chosen == "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(lambda _: _known(facts)) if objects else logging.Formatter(text)
    )
    logging.basicConfig(level=environment.get(LEVEL_VARIABLE) or "INFO", handlers=[handler])
    logging.captureWarnings(capture=objects)
    if not objects and chosen != "text":
        logger.warning("%s=%r is neither text nor json: writing text", FORMAT_VARIABLE, chosen)
    return Logs(handler, facts, objects=objects)
