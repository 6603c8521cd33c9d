"""Strikes are done in order, tried again while they find nobody, and undone whatever happens."""

from contextlib import contextmanager

import pytest

from tests.chaos import arena
from tests.chaos.arena import Missed, play
from tests.chaos.schedule import Fault, Strike

STRIKES = [
    Strike(fault=Fault.STOP_POD, target=0.0, seconds=0.05, at_samples=0),
    Strike(fault=Fault.KILL_POD, target=0.0, after_seconds=0.0),
]


class Run:
    """Lasts for so many looks; from one of them on there is somebody to hit."""

    def __init__(self, *, looks, somebody_after):
        self.left, self.somebody_after = looks, somebody_after
        self.done = []

    def samples(self):
        return 1

    def is_over(self):
        self.left -= 1
        return self.left < 0

    @contextmanager
    def apply(self, strike):
        self.somebody_after -= 1
        if self.somebody_after >= 0:
            raise Missed("no pod runs")
        self.done.append(f"{strike.fault}")
        try:
            yield "a pod"
        finally:
            self.done.append(f"{strike.fault} is undone")


def test_a_strike_that_finds_nobody_is_tried_until_it_does():
    run = Run(looks=20, somebody_after=3)

    hits = play(STRIKES, run, run.apply, deadline_seconds=60)

    assert [hit.missed for hit in hits] == [False, False]
    assert run.done[0] == "stop-pod"
    assert sorted(run.done) == ["kill-pod", "kill-pod is undone", "stop-pod", "stop-pod is undone"]


@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_who_finds_nobody_to_the_end_says_so(monkeypatch, patience):
    monkeypatch.setattr(arena, "PATIENCE_SECONDS", patience)
    run = Run(looks=10, somebody_after=1000)

    hits = play(STRIKES, run, run.apply, deadline_seconds=60)

    assert [hit.what for hit in hits if hit.missed] == ["(missed: no pod runs)"] * len(hits)
    assert len(hits) == (2 if patience == 0 else 0)
    assert run.done == []


def test_all_is_undone_when_the_run_goes_on_for_too_long():
    run = Run(looks=10**9, somebody_after=0)
    play(STRIKES[:1], run, run.apply, deadline_seconds=0.03)
    assert run.done == ["stop-pod", "stop-pod is undone"]
