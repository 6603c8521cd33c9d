"""A run of `concertina run` under faults: what can be hit, and a watch on its pods.

Its folder is a disk of its own if the schedule fills or slows one; its clock is a fake one if the
schedule steps it. Temporary files of all its processes go to a folder that is empty in the end.
"""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.chaos import clock, disk
from tests.chaos.arena import Missed
from tests.chaos.evidence import step_rows
from tests.chaos.invariants import surviving
from tests.chaos.job import document
from tests.chaos.processes import Owned, of_run
from tests.chaos.schedule import Fault, Strike, chosen
from tests.e2e.runs import ROOT, LocalRun

WATCH_SECONDS = 0.1


class LocalArena:
    """One run in a folder `run` below `work`."""

    def __init__(self, work: Path, *, clock_folder: Path | None = None) -> None:
        self.work = work
        self.folder = work / "run"
        self.clock_folder = clock_folder
        self._variables = {
            "TMPDIR": str(work / "tmp"),
            "PYTHONPATH": ":".join(str(ROOT / name) for name in ("", "operator", "trainer")),
        }
        if clock_folder is not None:
            self._variables |= clock.variables(clock_folder)
        self.watch = Watch(self.folder)
        self._down = 0
        self.start_operator()

    def start_operator(self) -> None:
        """Start the command, for the first time or again in the same folder."""
        self.watch.operator_starts()
        self.run = LocalRun(
            self.folder,
            document(views=str(self.work / "views"), checkpoints="checkpoints"),
            **self._variables,
        )

    @contextmanager
    def operator_down(self) -> Iterator[str]:
        """kill -9 of the command, which is started again in the end."""
        if self.run.process.poll() is not None:
            raise Missed("the command has ended")
        self._down += 1
        self.run.process.kill()
        self.run.process.wait()
        try:
            yield "the command"
        finally:
            self._down -= 1
            self.start_operator()

    def samples(self) -> int:
        rows = surviving(step_rows(self.folder))
        return max((row["samples"] for row in rows), default=0)

    def is_over(self) -> bool:
        return not self._down and self.run.process.poll() is not None

    # Whom to hit

    def agents(self) -> list[Owned]:
        """In the order of their pods."""
        found = (each for each in of_run(self.folder) if each.program == "agent")
        return sorted(found, key=lambda each: each.pod)

    def workers(self) -> list[Owned]:
        """Those that train, in the order of their ranks."""
        told = {w.pid: w.rank for w in self.run.workers().values() if w.rank >= 0}
        found = (each for each in of_run(self.folder) if each.process.pid in told)
        return sorted(found, key=lambda each: told[each.process.pid])

    def worker(self, strike: Strike) -> Owned:
        return _hit(self.workers(), strike, "worker trains")

    def agent(self, strike: Strike) -> Owned:
        return _hit(self.agents(), strike, "agent runs")

    def pod(self, strike: Strike) -> list[Owned]:
        """All processes of a pod, its agent first."""
        agent = self.agent(strike)
        rest = [each for each in of_run(self.folder) if each.uid == agent.uid]
        return [agent, *(each for each in rest if each != agent)]

    def report(self, strike: Strike) -> Path:
        return self.folder / "reports" / f"{self.agent(strike).pod}.json"


class Watch:
    """Looks at the pods of a run all the time: how many there are, and how long."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self.most_pods = 0
        self._num_pods = 0
        """In the look before."""
        self.gpu_seconds = 0.0
        """Since the newest start of the operator."""
        self.pids: set[int] = set()
        self._looked = time.monotonic()
        self._thread = threading.Thread(target=self._look_on, name="watch")
        self._thread.start()

    def operator_starts(self) -> None:
        self.gpu_seconds = 0.0

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            found = of_run(self._folder)
            self.pids |= {each.process.pid for each in found}
            pods = {each.uid for each in found if each.program == "agent"}
            now = time.monotonic()
            self.gpu_seconds += len(pods) * (now - self._looked)
            self._looked = now
            self._count(pods, found)

    def _count(self, pods: set[str], found: Sequence[Owned]) -> None:
        """Count who was there in two looks in a row: the log tells of an end after the fact."""
        num_pods = len(pods)
        if num_pods > self.most_pods:
            num_pods -= len(pods & self._on_their_way_out(found))
        self.most_pods = max(self.most_pods, min(num_pods, self._num_pods))
        self._num_pods = num_pods

    def _on_their_way_out(self, found: Sequence[Owned]) -> set[str]:
        """Uids of pods that were deleted: they hold a place no more, as terminating ones on a node."""
        log = self._folder / "run.log"
        words = log.read_text() if log.exists() else ""
        last = {
            each.uid: max(
                ("created", "deleted"), key=lambda what: words.rfind(f"{each.pod} {what}")
            )
            for each in found
        }
        return {uid for uid, what in last.items() if what == "deleted"}


@contextmanager
def local_arena(work: Path, strikes: Sequence[Strike]) -> Iterator[LocalArena]:
    """A run that has just begun, prepared for these strikes; nothing of it outlives the context."""
    faults = {strike.fault for strike in strikes}
    with ExitStack() as stack:
        (work / "tmp").mkdir(parents=True)
        (work / "schedule.json").write_text(json.dumps([str(strike) for strike in strikes]))
        if faults & {Fault.FULL_DISK, Fault.SLOW_DISK}:
            stack.enter_context(disk.mounted(work / "disk.img", work / "run"))
        clock_folder = work / "clock" if Fault.CLOCK_STEP in faults else None
        if clock_folder is not None:
            clock.made(clock_folder)
        arena = LocalArena(work, clock_folder=clock_folder)
        stack.callback(arena.watch.stop)
        stack.callback(lambda: arena.run.kill())
        yield arena


def _hit(candidates: Sequence[Owned], strike: Strike, what: str) -> Owned:
    found = chosen(candidates, target=strike.target)
    if found is None:
        raise Missed(f"no {what}")
    return found
