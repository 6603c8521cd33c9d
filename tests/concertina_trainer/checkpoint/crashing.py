"""A program that saves checkpoints and is killed in the middle, as often as it is asked.

Reads one JSON object a line: {"path", "kill_at": the number of a file operation} or {"path" or a
URL, "kill_after_seconds"}; answers each with "killed" or "done". It imports torch once and forks
for every save, while it has a single thread, so a kill costs milliseconds.
"""

import json
import os
import signal
import sys
import threading

from concertina_trainer.sharding.state import Entry
from tests.concertina_trainer.checkpoint import states

FILE_OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


def kill_at(operation: int, path: str) -> None:
    """End this process, as kill -9 does, right before a file operation inside `path`."""
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in FILE_OPERATIONS and os.fspath(str(arguments[0])).startswith(path):
            if seen == operation:
                os.kill(os.getpid(), signal.SIGKILL)
                threading.Event().wait()
            seen += 1

    sys.addaudithook(watch)


def save_two_ranks(path: str, entries: dict[str, Entry]) -> None:
    """Save step 2, rank 1 first and then the leader, so that the order of operations is fixed."""
    for rank in (1, 0):
        writer = states.Writer(path, job=states.JOB, keep=1)
        held = states.holding(2, world_size=2, rank=rank, entries=entries)
        writer.save(held, origin=states.world(1), may_publish=states.always)
        writer.wait()


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                if "kill_at" in order:
                    kill_at(order["kill_at"], order["path"])
                    save_two_ranks(order["path"], states.ENTRIES)
                else:
                    save_two_ranks(order["path"], states.large_entries())
            finally:
                os._exit(0)
        if (seconds := order.get("kill_after_seconds")) is not None:
            threading.Event().wait(seconds)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "done", flush=True)


if __name__ == "__main__":
    main()
