"""The connected TCP sockets of this process, so that a blocked collective can be broken off.

gloo's own abort does nothing: a collective whose peer is silent ends only at the group's timeout.
Shutting down the connections that were opened for the group ends it at once. Used by
transport.py only; listening sockets are never touched (gloo ends the process then), and a
connection is known by descriptor and inode, because descriptor numbers are used again.
"""

import os
import socket
from pathlib import Path

Connection = tuple[int, int]
"""Descriptor and inode."""


def connections() -> frozenset[Connection]:
    """All connected TCP sockets of this process."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        connection = _connection(int(entry.name))
        if connection is not None:
            found.add(connection)
    return frozenset(found)


def shut_down(wanted: frozenset[Connection]) -> int:
    """End these connections, if they still are what they were; returns how many were ended."""
    ended = 0
    for descriptor, inode in wanted:
        if _connection(descriptor) != (descriptor, inode):
            continue
        try:
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                connection.shutdown(socket.SHUT_RDWR)
            ended += 1
        except OSError:
            continue  # closed meanwhile: what was wanted
    return ended


def _connection(descriptor: int) -> Connection | None:
    try:
        if not str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("socket:"):
            return None
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            if connection.type != socket.SOCK_STREAM:
                return None
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return None
        return descriptor, os.stat(descriptor).st_ino
    except OSError:
        return None
