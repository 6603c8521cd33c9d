"""Reads the files that guard the metrics: a bearer token, and a certificate with its key.

Used by endpoint.py. Secrets are rotated while the process runs, so the files are looked at whenever
they are needed. What cannot be used at the start ends the process in words (serve.py). Later on the
certificate that was good goes on, and a token that cannot be read lets nobody in.
"""

import hmac
import logging
import re
import ssl
from pathlib import Path
from typing import Final

from concertina_api.errors import ConcertinaError

_TOKEN: Final = re.compile(r"[!-~]+")

_log = logging.getLogger(__name__)

_Version = tuple[tuple[int, int, int], ...]


class UnusableFile(ConcertinaError):
    """A file with a token, a certificate or a key is missing, empty or damaged."""


class TokenFile:
    """The bearer token in a file."""

    def __init__(self, path: Path) -> None:
        """Raises UnusableFile."""
        self._path = path
        self._read()

    def admits(self, authorization: str) -> bool:
        """Whether the value of an Authorization header has the token; takes as long for any other."""
        scheme, _, given = authorization.partition(" ")
        try:
            token = self._read()
        except UnusableFile as error:
            _log.warning("nobody may read the metrics: %s", error)
            return False
        is_same = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), token)
        return is_same and scheme.lower() == "bearer"

    def _read(self) -> bytes:
        try:
            text = self._path.read_text(encoding="ascii").strip()
        except OSError as error:
            raise UnusableFile(f"token file {self._path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UnusableFile(f"token file {self._path}: not ASCII") from error
        if not text:
            raise UnusableFile(f"token file {self._path}: it is empty")
        if not _TOKEN.fullmatch(text):
            raise UnusableFile(f"token file {self._path}: more than one word")
        return text.encode()


class Certificate:
    """A certificate and its key, which a server shows to each client as they are by then."""

    def __init__(self, *, cert_file: Path, key_file: Path) -> None:
        """Raises UnusableFile."""
        self._files = (cert_file, key_file)
        self._version = self._present_version()
        self._context = self._load()

    def server_context(self) -> ssl.SSLContext:
        """What a server listens with."""
        context = self._load()
        context.sni_callback = self._choose
        return context

    def _choose(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        """Called at each handshake, whether the client names a server or not."""
        try:
            version = self._present_version()
            if version != self._version:
                self._version = version
                self._context = self._load()
                _log.info("certificate %s is read anew", self._files[0])
        except UnusableFile as error:
            _log.warning("the last good certificate goes on: %s", error)
        connection.context = self._context

    def _present_version(self) -> _Version:
        """Changes with either file, however it is replaced."""
        return tuple(_version_of(path) for path in self._files)

    def _load(self) -> ssl.SSLContext:
        cert_file, key_file = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Without a password it would ask the terminal for one.
            context.load_cert_chain(cert_file, key_file, password="")
        except (OSError, ValueError) as error:
            words = f"certificate {cert_file} with key {key_file}: {error}"
            raise UnusableFile(words) from error
        return context


def _version_of(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise UnusableFile(f"TLS file {path}: {error.strerror}") from error
    if not found.st_size:
        raise UnusableFile(f"TLS file {path}: it is empty")
    return found.st_ino, found.st_mtime_ns, found.st_size
