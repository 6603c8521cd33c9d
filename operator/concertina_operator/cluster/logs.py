"""How the operator logs: lines of text, or one JSON object a line, kopf's included.

Set up by serve.py first of all. Each object has `time`, `level`, `logger` and `message`, and
whatever of `namespace`, `job`, `pod` and `round` is known: what is done for a job in `of_job` names
it, a line about a pod or a round says which (`extra`), and kopf's own lines name the object that they
are about.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from types import TracebackType
from typing import Final

from concertina_api.log_lines import JsonFormatter
from concertina_operator.cluster.store import Key

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_FIELDS: Final = ("namespace", "job", "pod", "round")
_job: ContextVar[Key | None] = ContextVar("job", default=None)

_log = logging.getLogger(__name__)


class LogFormat(StrEnum):
    """How a line looks."""

    TEXT = "text"
    JSON = "json"


class TextFormatter(logging.Formatter):
    """Formats a record as a line of text, with a traceback's lines below.

    Messages have words of pods' reports: what is in one neither begins a line nor moves a cursor.
    """

    def __init__(self) -> None:
        """Time, level and logger come first."""
        super().__init__(_TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as logging has it
        """The line without the traceback."""
        return _escaped(super().formatMessage(record))


def set_up_logs(log_format: LogFormat, *, level: str) -> None:
    """Logs to standard error from now on, what ends the process included."""
    handler = logging.StreamHandler(sys.stderr)
    is_json = log_format is LogFormat.JSON
    handler.setFormatter(JsonFormatter(about) if is_json else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(capture=True)
    if level != "DEBUG":  # kopf tells of each step that it takes
        logging.getLogger("kopf").setLevel(logging.WARNING)
    sys.excepthook = _log_end


@contextmanager
def of_job(key: Key) -> Iterator[None]:
    """Lines that are logged meanwhile, by this task and those that it starts, are about the job."""
    token = _job.set(key)
    try:
        yield
    finally:
        _job.reset(token)


def _escaped(text: str) -> str:
    """The text with all that does not print, but spaces, as Python writes it in quotes."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def about(record: logging.LogRecord) -> dict[str, object]:
    """What the record is about, as far as is known."""
    known: dict[str, object] = {}
    key, reference = _job.get(), getattr(record, "k8s_ref", None)
    if reference is not None:  # kopf follows nothing but jobs
        key = Key(reference.get("namespace") or "", reference.get("name") or "")
    if key is not None:
        known = {"namespace": key.namespace, "job": key.name}
    said = {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
    return known | said


def _log_end(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    _log.critical("this process ends: %s", error, exc_info=(kind, error, traceback))
