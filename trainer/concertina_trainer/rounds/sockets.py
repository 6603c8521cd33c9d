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


def num_left(wanted: frozenset[Connection]) -> int:
    """How many of these connections are open still on this side."""
    return sum(_inode(descriptor) == inode for descriptor, inode in wanted)


def call_and_hang_up(listener: Connection, *, num_peers: int) -> None:
    """Let this listener of gloo wait for none of its peers any more.

    A peer that calls says first its number among those of the listener, in 8 bytes. What is said
    before anybody waits is kept, so one call for each is enough.
    """
    found = _opened(listener, listening=True)
    if found is None:
        return
    with found, contextlib.suppress(OSError):
        address = found.getsockname()
        for number in range(num_peers):
            with socket.socket(found.family) as call:
                call.settimeout(_CALL_SECONDS)
                call.connect(address)
                call.sendall(struct.pack("=q", number))


def shut_down(wanted: frozenset[Connection]) -> int:
    """End these connections, if they still are what they were; returns how many were ended."""
    ended = 0
    for each in wanted:
        connection = _opened(each, listening=False)
        if connection is None:
            continue  # closed meanwhile: what was wanted
        with connection, contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
            ended += 1
    return ended


def _sockets(*, listening: bool) -> frozenset[Connection]:
    entries = (int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    found = (_known(descriptor, listening=listening) for descriptor in entries)
    return frozenset(each for each in found if each is not None)


def _known(descriptor: int, *, listening: bool) -> Connection | None:
    """The TCP socket of a descriptor, if it is one that listens, or one that does not."""
    inode = _inode(descriptor)
    found = None if inode is None else _opened((descriptor, inode), listening=listening)
    if inode is None or found is None:
        return None
    found.close()
    return descriptor, inode


def _inode(descriptor: int) -> int | None:
    """What a descriptor is open on; None if it is closed."""
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return None


def _opened(wanted: Connection, *, listening: bool) -> socket.socket | None:
    """A handle of its own of a TCP socket, if the descriptor still is that socket."""
    descriptor, inode = wanted
    with contextlib.ExitStack() as stack:
        try:
            # Before it is duplicated: closing a copy of a file's descriptor drops the file's locks.
            if not Path(f"/proc/self/fd/{descriptor}").is_socket():
                return None
            own = os.dup(descriptor)
            stack.callback(os.close, own)
            if os.fstat(own).st_ino != inode:
                return None
            found = socket.socket(fileno=own)
            stack.callback(found.detach)
            is_tcp = found.family in (socket.AF_INET, socket.AF_INET6)
            if not is_tcp or found.type != socket.SOCK_STREAM:
                return None
            if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != listening:
                return None
        except OSError:
            return None
        stack.pop_all()
        return found
