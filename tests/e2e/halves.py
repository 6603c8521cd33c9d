"""Two halves of a network that can be cut apart: one network namespace each, joined by a bridge.

    python -m tests.e2e.halves <pods of the left half, with commas>

is the agent of a pod in its half; all other pods are in the right one.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BRIDGE = "cc-bridge"
ADDRESSES = {"left": "10.213.7.1", "right": "10.213.7.2"}


@contextmanager
def joined() -> Iterator[None]:
    """The two halves; nothing of them is left afterwards."""
    _remove()
    try:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("link", "set", BRIDGE, "up")
        for half, address in ADDRESSES.items():
            name = _namespace(half)
            _ip("netns", "add", name)
            _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("link", "set", name, "master", BRIDGE, "up")
        yield
    finally:
        _remove()


def cut() -> None:
    """From now on nothing that one half sends arrives in the other, and nobody is told."""
    _ip("link", "set", _namespace("right"), "nomaster")


def heal() -> None:
    """Join the halves again."""
    _ip("link", "set", _namespace("right"), "master", BRIDGE)


def run_agent(left: str) -> None:
    """Become the agent of the pod that the environment names, in its half."""
    half = "left" if os.environ["CONCERTINA_POD"] in left.split(",") else "right"
    os.environ |= {"CONCERTINA_HOST": ADDRESSES[half], "GLOO_SOCKET_IFNAME": "eth0"}
    command = ("ip", "netns", "exec", _namespace(half), sys.executable)
    os.execvp(command[0], (*command, "-m", "concertina_trainer.agent"))


def _namespace(half: str) -> str:
    """Of the half; its link has the same name."""
    return f"cc-{half}"


def _remove() -> None:
    for arguments in (
        *(("netns", "delete", _namespace(half)) for half in ADDRESSES),
        ("link", "delete", BRIDGE),
    ):
        subprocess.run(["ip", *arguments], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


if __name__ == "__main__":
    run_agent(*sys.argv[1:])
