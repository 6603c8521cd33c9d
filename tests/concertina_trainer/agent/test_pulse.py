import os
import signal
from pathlib import Path

import pytest

from concertina_api.v1alpha1 import PodPhase
from concertina_trainer.agent.mailbox import WorkerStatus
from concertina_trainer.agent.pulse import (
    BUSY_SECONDS,
    KILL_SECONDS,
    SILENT_SECONDS,
    Pulse,
    Pulses,
    beat,
    heartbeat_file,
    newest_beat,
    processor_ticks,
)
from tests.concertina_trainer.agent.pods import wait_for
from tests.worlds import spawn

TURN = 0.5


def felt(beats, ticks, *, turns, every=TURN):
    """A pulse after so many turns; `beats` and `ticks` say what is seen in a turn."""
    pulse = Pulse()
    for turn in range(turns + 1):
        pulse.take(beats(turn), ticks(turn), now=turn * every)
    return pulse


def still(_turn):
    return 7


def goes_on(turn):
    return turn


def never(_turn):
    return None


SILENT = round(SILENT_SECONDS / TURN)
BUSY = round(BUSY_SECONDS / TURN)


@pytest.mark.parametrize(
    ("beats", "ticks", "turns", "want"),
    [
        pytest.param(goes_on, still, 10 * SILENT, False, id="one that waits for others beats"),
        pytest.param(still, still, SILENT - 1, False, id="not yet"),
        pytest.param(still, still, SILENT, True, id="stopped"),
        pytest.param(still, goes_on, BUSY - 1, False, id="at work in one long call"),
        pytest.param(still, goes_on, BUSY, True, id="at work in an endless call"),
        pytest.param(never, still, 10 * BUSY, False, id="a program that does not beat"),
        pytest.param(still, never, SILENT, True, id="no such process"),
    ],
)
def test_a_worker_is_gone_when_it_neither_beats_nor_works(beats, ticks, turns, want):
    assert felt(beats, ticks, turns=turns).is_gone is want


def test_an_agent_that_was_stopped_together_with_its_worker_does_not_kill_it():
    pulse = felt(still, still, turns=2, every=1000.0)
    assert not pulse.is_gone
    pulse.take(8, 7, now=2001.0)
    assert pulse.silent_seconds == 0


def test_a_worker_that_cannot_be_killed_is_told_apart():
    assert not felt(still, still, turns=SILENT + 1).outlives_its_kill
    assert felt(still, still, turns=round((SILENT_SECONDS + KILL_SECONDS) / TURN)).outlives_its_kill


def test_beats_differ_and_their_absence_is_told(tmp_path):
    path = heartbeat_file(tmp_path, 1)
    assert newest_beat(path) is None
    beat(path)
    first = newest_beat(path)
    wait_for(lambda: beat(path) or newest_beat(path) != first, lambda: "another beat")
    beat(tmp_path / "no" / "folder")


def test_a_stopped_process_uses_no_processor_time():
    worker = spawn(spin)
    try:
        wait_for(lambda: processor_ticks(worker.pid) > 20, lambda: "work")
        os.kill(worker.pid, signal.SIGSTOP)
        wait_for(lambda: " T " in Path(f"/proc/{worker.pid}/stat").read_text(), lambda: "a stop")
        before, now = processor_ticks(worker.pid), processor_ticks(os.getpid())
        wait_for(lambda: processor_ticks(os.getpid()) > now + 20, lambda: "time of this process")
        assert processor_ticks(worker.pid) == before
    finally:
        worker.kill()
        worker.join()
    assert processor_ticks(worker.pid) is None


def spin():
    """Body of a process that works until it is killed."""
    while True:
        pass


@pytest.mark.parametrize(
    ("phase", "want"),
    [
        (PodPhase.STARTING, {}),
        (PodPhase.TRAINING, {0: "it gave no sign of life for 6 s and was killed"}),
    ],
)
def test_only_warm_workers_are_killed_for_silence(tmp_path, phase, want):
    beat(heartbeat_file(tmp_path, 0))
    status = WorkerStatus(incarnation="a", local_rank=0, pid=2**22 + 1, rank=3, phase=phase)
    pulses = Pulses(tmp_path)
    for turn in range(SILENT + 1):
        pulses.feel([status], now=turn * TURN)
    assert pulses.silent == want
    assert not pulses.hopeless
