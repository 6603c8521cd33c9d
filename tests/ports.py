"""Ports for servers of tests."""

import random
import socket
from contextlib import ExitStack

LOWEST, HIGHEST = 12000, 29000
"""Below the range from which the kernel takes the near ends of connections: nobody gets one of them
between now and the server's start, or while a server is started again."""


def free_port(*, run: int = 1) -> int:
    """The first of `run` ports in a row that nobody listens on now."""
    draw = random.SystemRandom()
    while True:
        first = draw.randrange(LOWEST, HIGHEST)
        with ExitStack() as stack:
            try:
                for port in range(first, first + run):
                    stack.enter_context(socket.socket()).bind(("", port))
            except OSError:
                continue
        return first
