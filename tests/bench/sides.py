"""Two trainings that a bench breaks in the same way: ours, and torchrun with checkpoints.

Both train one model on four workers of this machine, write a row after each step and are asked
for the process ids of their workers. Used by recovery.py and goodput.py; the judgements on rows at
the end are pure.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tests.bench.tasks import sized
from tests.e2e.records import read_rows
from tests.e2e.runs import LocalRun, environment, is_alive, parent_of, started

NUM_WORKERS = 4
NUM_MICRO_BATCHES = 8
"""Of one sample each; also in rival_training.py."""
TOKENS = 64
GRACE_SECONDS = 30
DEADLINE_SECONDS = 300.0
POLL_SECONDS = 0.01
RIVAL = Path(__file__).with_name("rival_training.py")
Row = Mapping[str, Any]


class Side(Protocol):
    """A training that goes on for ever, and loses workers."""

    name: str

    def rows(self) -> list[Row]:
        """Rows of all steps so far, in the order in which they were done."""

    def workers(self) -> dict[int, int]:
        """Process id by rank, of the workers that train now."""

    def has_noticed(self, before: Mapping[int, int]) -> bool:
        """Whether the loss of one of the workers `before` is answered."""

    def account(self) -> str:
        """What was printed last, for the message of a failure."""


class Ours:
    """`concertina run` with one worker in each of four pods."""

    name = "ours"

    def __init__(self, run: LocalRun) -> None:
        self._run = run
        self._round = 0

    def rows(self) -> list[Row]:
        return list(self._run.all_steps())

    def workers(self) -> dict[int, int]:
        statuses = self._run.workers().values()
        self._round = max((status.round for status in statuses), default=0)
        return {status.rank: status.pid for status in statuses if status.rank >= 0}

    def agent_of(self, worker: int) -> int:
        """Process id of the agent that stands for the worker's pod."""
        return parent_of(worker)

    def has_noticed(self, before: Mapping[int, int]) -> bool:
        """A membership without the lost worker is published."""
        del before
        found = self._run.membership()
        return found is not None and found.round > self._round and bool(found.lost)

    def account(self) -> str:
        return self._run.account()


class Rival:
    """torchrun on one node: it ends all workers when one does, and starts them anew."""

    name = "torchrun"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def rows(self) -> list[Row]:
        return list(read_rows(self._folder / "rows.jsonl"))

    def workers(self) -> dict[int, int]:
        found = {}
        for path in self._folder.glob("worker-*"):
            with contextlib.suppress(ValueError):
                pid = int(path.read_text())
                if is_alive(pid):
                    found[int(path.name.partition("-")[2])] = pid
        return found

    def has_noticed(self, before: Mapping[int, int]) -> bool:
        """The others are ended."""
        return not any(is_alive(pid) for pid in before.values())

    def account(self) -> str:
        return (self._folder / "output").read_text(errors="replace")[-6000:]


@contextmanager
def ours(
    folder: Path, *, size: str, checkpoint_seconds: int = 60, agent_command: Sequence[str] = ()
) -> Iterator[Side]:
    """Our side; it ends with the block."""
    document = sized(
        size,
        tokens=TOKENS,
        batch=NUM_MICRO_BATCHES,
        pods={"min": 1, "max": NUM_WORKERS},
        scaling={"scaleUpCooldownSeconds": 0, "scaleDownCooldownSeconds": 0},
        checkpoint={"path": "checkpoints", "everySeconds": checkpoint_seconds},
        failurePolicy={"backoffLimit": 10**6, "avoidNodeAfter": 0},
    )
    document["spec"]["batch"]["maxAccumulation"] = NUM_MICRO_BATCHES // NUM_WORKERS
    grace = GRACE_SECONDS if agent_command else None  # another agent needs it said
    with started(folder, document, grace_seconds=grace, agent_command=agent_command) as run:
        yield Ours(run)


@contextmanager
def rival(folder: Path, *, size: str, checkpoint_seconds: float) -> Iterator[Side]:
    """The rival; it ends with the block."""
    folder.mkdir(parents=True)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=1000",
        "--monitor-interval=0.1", f"--nproc-per-node={NUM_WORKERS}",
        str(RIVAL), str(folder), size, str(checkpoint_seconds),
    ]  # fmt: skip
    # torch 2.15 gives restarted workers the store of those before, whose addresses they then dial.
    variables = environment() | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=variables)
    side = Rival(folder)
    try:
        yield side
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        for pid in side.workers().values():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def wait(side: Side, found: Callable[[], Any], what: str) -> float:
    """The time.time() at which `found` was first true."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not found():
        if time.monotonic() > deadline:
            message = f"not within {DEADLINE_SECONDS:.0f} s by {side.name}: {what}"
            raise TimeoutError(f"{message}\n{side.account()}")
        time.sleep(POLL_SECONDS)
    return time.time()


def wait_steady(side: Side, *, steps: int) -> None:
    """All workers train, and so many steps are done since."""
    wait(side, lambda: len(side.workers()) == NUM_WORKERS, f"{NUM_WORKERS} workers")
    before = len(side.rows())
    wait(side, lambda: len(side.rows()) >= before + steps, f"{steps} steps")


def surviving(rows: Sequence[Row]) -> list[Row]:
    """Rows of the history that counts: a step that was run again counts in its last run."""
    kept: list[Row] = []
    for row in rows:
        while kept and kept[-1]["step"] >= row["step"]:
            kept.pop()
        kept.append(row)
    return kept


def steps_lost(rows: Sequence[Row]) -> int:
    """Steps that had to be run again."""
    return len(rows) - len(surviving(rows))


def goodput(rows: Sequence[Row], *, begin: float, end: float) -> float:
    """Share of the time from `begin` to `end` (time.time()) in steps that counted."""
    spent = 0.0
    for row in surviving(rows):
        first, last = row["time"] - row["seconds"], row["time"]
        spent += max(0.0, min(last, end) - max(first, begin))
    return spent / (end - begin)
