"""The TCP sockets of this process, so that a blocked collective can be broken off.

gloo's own abort does nothing: a collective whose peer is silent ends only at the group's timeout.
Shutting down the connections that were opened for the group ends it at once. Used by
transport.py only; listening sockets are never touched (gloo ends the process then), and a
socket is known by descriptor and inode, because descriptor numbers are used again.

While a group is opened there may be no connection yet: of two ranks one calls, and the other waits
to be called, five times as long as the group's timeout. So this process calls itself in place of
the peers that are missing, and hangs up.
"""

import contextlib
import os
import socket
import struct
from pathlib import Path

Connection = tuple[int, int]
"""Descriptor and inode."""

_CALL_SECONDS = 1.0
"""For a call from this process to itself."""


def connections() -> frozenset[Connection]:
    """All connected TCP sockets of this process."""
    return _sockets(listening=False)


def listeners() -> frozenset[Connection]:
    """All TCP sockets of this process that wait for calls."""
    return _sockets(listening=True)


def call_and_hang_up(wanted: frozenset[Connection], *, num_peers: int) -> None:
    """Let none of these listeners of gloo wait for any of its peers any more.

    A peer that calls says first its number among those of the listener, in 8 bytes.
    """
    for listener in wanted:
        if (address := _address(listener)) is None:
            continue
        for number in range(num_peers):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(address, timeout=_CALL_SECONDS) as call,
            ):
                call.sendall(struct.pack("=q", number))


def shut_down(wanted: frozenset[Connection]) -> int:
    """End these connections, if they still are what they were; returns how many were ended."""
    ended = 0
    for descriptor, inode in wanted:
        if _socket(descriptor, listening=False) != (descriptor, inode):
            continue
        try:
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                connection.shutdown(socket.SHUT_RDWR)
            ended += 1
        except OSError:
            continue  # closed meanwhile: what was wanted
    return ended


def _sockets(*, listening: bool) -> frozenset[Connection]:
    entries = (int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    found = (_socket(descriptor, listening=listening) for descriptor in entries)
    return frozenset(each for each in found if each is not None)


def _socket(descriptor: int, *, listening: bool) -> Connection | None:
    """The TCP socket of a descriptor, if it is one that listens, or one that does not."""
    try:
        if not str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("socket:"):
            return None
        with socket.socket(fileno=os.dup(descriptor)) as found:
            if found.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            if found.type != socket.SOCK_STREAM:
                return None
            if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != listening:
                return None
        return descriptor, os.stat(descriptor).st_ino
    except OSError:
        return None


def _address(listener: Connection) -> tuple[str, int] | None:
    """Where a listener waits, if it still is what it was."""
    descriptor, _ = listener
    try:
        if _socket(descriptor, listening=True) != listener:
            return None
        with socket.socket(fileno=os.dup(descriptor)) as found:
            host, port = found.getsockname()[:2]
    except OSError:
        return None
    return host, port
