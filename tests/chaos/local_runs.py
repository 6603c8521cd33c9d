"""Runs of `concertina run` under chaos, one after the other, judged against an undisturbed one."""

import json
import time
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Self

from tests.chaos import evidence
from tests.chaos.arena import Hit, play
from tests.chaos.faults_local import local_fault
from tests.chaos.invariants import Evidence, violations
from tests.chaos.job import MAX_PODS, SAMPLES
from tests.chaos.local import LocalArena, local_arena
from tests.chaos.outcome import Judged
from tests.chaos.processes import of_run
from tests.chaos.schedule import Fault, Strike

DEADLINE_SECONDS = 600.0
GONE_SECONDS = 15.0
"""For processes to end after the command has."""


class LocalRuns:
    """A place for runs; the undisturbed one is run when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing outlives a run."""

    @cached_property
    def undisturbed(self) -> Evidence:
        """What the same job does when nothing happens to it."""
        found, _ = run(self._folder / "undisturbed", ())
        assert found.ending == "completed", f"the undisturbed run: {found.ending}"
        return found

    def __call__(self, work: Path, strikes: Sequence[Strike]) -> Judged:
        """Run and judge."""
        undisturbed = self.undisturbed
        began = time.monotonic()
        found, hits = run(work, strikes)
        return Judged(
            seconds=time.monotonic() - began,
            hits=hits,
            evidence=found,
            violations=violations(found, undisturbed=undisturbed),
        )


def run(work: Path, strikes: Sequence[Strike]) -> tuple[Evidence, list[Hit]]:
    """One run in a fresh folder, and what is known about it afterwards."""
    with local_arena(work, strikes) as arena:
        apply = partial(local_fault, arena)
        hits = play(strikes, arena, apply, deadline_seconds=DEADLINE_SECONDS)
        return _collect(arena, strikes), hits


def _collect(arena: LocalArena, strikes: Sequence[Strike]) -> Evidence:
    folder, code = arena.folder, arena.run.process.poll()
    deadline = time.monotonic() + GONE_SECONDS
    while (processes := of_run(folder)) and code is not None and time.monotonic() < deadline:
        time.sleep(0.1)  # until they have ended
    arena.watch.stop()
    status = _read(folder / "status.json")
    left = [f"{each.program or 'process'} of {each.pod}" for each in processes]
    left += evidence.left_in(arena.work / "tmp")
    left += evidence.temporary_files(folder)
    left += evidence.unfinished_checkpoints(folder / "checkpoints")
    left += evidence.shared_memory(arena.watch.pids)
    return Evidence(
        ending=_ending(arena, code),
        samples=SAMPLES,
        max_pods=MAX_PODS,
        rows=evidence.step_rows(folder),
        has_gaps=any(strike.fault is Fault.FULL_DISK for strike in strikes),
        state=evidence.final_state(folder / "checkpoints", job="tiny"),
        views=evidence.views(arena.work / "views"),
        left=left,
        most_pods=arena.watch.most_pods,
        gpu_seconds_told=status.get("gpuSeconds", 0.0),
        gpu_seconds_seen=arena.watch.gpu_seconds,
    )


def _ending(arena: LocalArena, code: int | None) -> str:
    if code is None:
        return f"not within {DEADLINE_SECONDS:.0f} s"
    summary = _read(arena.folder / "summary.json")
    if code:
        return f"exit code {code}, {summary.get('outcome')}"
    return str(summary.get("outcome"))


def _read(path: Path) -> dict:
    return json.loads(path.read_bytes()) if path.exists() else {}
