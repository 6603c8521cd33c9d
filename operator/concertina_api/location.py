"""Where checkpoints lie: a path, or the URL of an object storage. Pure: no I/O.

Called by the model of a job, by the operator (such a storage outlives every pod) and by the
trainer, which opens it.
"""

import re
from typing import Final
from urllib.parse import urlsplit

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_OF_ONE_MACHINE: Final = frozenset({"dir", "file", "local", "memory", "tmp"})
"""Schemes of storages that no other machine, or no other process, sees."""


def scheme(location: str) -> str | None:
    """`s3` of `s3://bucket/folder`; None for a path."""
    found = _SCHEME.match(location)
    return found[1].lower() if found else None


def check_location(location: str) -> str:
    """`location` itself. Raises ValueError for a URL under which nobody can keep checkpoints.

    Credentials are refused, because a manifest is no secret: they come from the environment.
    """
    if (name := scheme(location)) is None:
        return location
    if name in _OF_ONE_MACHINE:
        raise ValueError(f"{name}:// is of one machine alone: give a path instead")
    if "::" in location:
        raise ValueError("a chain of URLs (::) is no place for checkpoints")
    parts = urlsplit(location)
    if "@" in parts.netloc:
        raise ValueError(
            "a URL with credentials: they come from the environment, never from the manifest"
        )
    if not parts.netloc:
        raise ValueError(f"{location!r} names no bucket: expected {name}://BUCKET/FOLDER")
    if parts.query or parts.fragment or not location.isprintable() or " " in location:
        raise ValueError(f"{location!r} is not of the form {name}://BUCKET/FOLDER")
    return location
