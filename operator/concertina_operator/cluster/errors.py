"""What the client raises when the API server refuses, by what the caller can do about it.

ApiError
|-- Unreachable   no answer; try again
|-- NotFound      the object is not there
|-- Conflict      it exists already, or it has changed since it was read
|-- Gone          a watch cannot go on from there; list again
|-- Refused       the server will not have it: rights, quota, admission (a webhook that does not
|                 answer, too), or an invalid object
|-- Throttled     the server asked to wait several times in a row; try again later
`-- Deposed       we are no longer the leader and may write nothing
"""

import json
from collections.abc import Mapping
from typing import Final

from concertina_api.errors import ConcertinaError


class ApiError(ConcertinaError):
    """The API server refused a request, or could not be asked."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Unreachable(ApiError):
    """No answer came."""


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409; `reason` AlreadyExists tells a taken name from a changed object."""


class Gone(ApiError):
    """410: the history is no longer kept; or whatever else a watch tells as its own end."""


class Refused(ApiError):
    """400, 403, 422 or 500, in the server's words."""


class Throttled(ApiError):
    """429, several times in a row."""


class Deposed(ApiError):
    """Nothing was sent: only the leader writes."""


_KINDS: Final[Mapping[int, type[ApiError]]] = {
    400: Refused,
    403: Refused,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Refused,
    429: Throttled,
    500: Refused,
}


def error_of(status: int, content: bytes) -> ApiError:
    """The error that an answer tells of."""
    try:
        told = json.loads(content)
        reason, message = str(told.get("reason", "")), str(told.get("message", ""))
    except (ValueError, AttributeError):
        reason, message = "", content[:200].decode(errors="replace")
    return _KINDS.get(status, ApiError)(status, reason, message)
