"""How operator, agents and workers write a log record as one line of JSON: the same fields first.

Their logs modules use it, each with what it knows of the record.
"""

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, message, and what it is about."""

    def __init__(self, about: Callable[[logging.LogRecord], Mapping[str, object]]) -> None:
        """`about` gives the fields that say what a record is about."""
        super().__init__()
        self._about = about

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._about(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        return json.dumps(fields)
