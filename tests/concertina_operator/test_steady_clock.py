"""The clock of the plans goes on evenly, whatever becomes of the machine's."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from concertina_operator.steady_clock import SteadyClock
from tests.chaos import clock

CODE = """
import sys, time
from pathlib import Path
from tests.chaos.clock import set_offset
from concertina_operator.steady_clock import SteadyClock
steady = SteadyClock()
before, wall = steady.now(), time.time()
set_offset(Path(sys.argv[1]), -86400)
print((steady.now() - before).total_seconds(), time.time() - wall)
"""


def test_it_shows_the_time() -> None:
    before = datetime.now(UTC)
    assert before <= SteadyClock().now() <= datetime.now(UTC) + timedelta(milliseconds=10)


def test_it_can_be_set_to_the_wall_clock_again() -> None:
    steady = SteadyClock()
    first = steady.now()
    steady.set()
    assert first <= steady.now() <= datetime.now(UTC) + timedelta(milliseconds=10)


def test_a_step_of_the_wall_clock_does_not_move_it(tmp_path) -> None:
    folder = tmp_path / "clock"
    try:
        clock.made(folder)
    except clock.NoFakeClock as missing:
        pytest.skip(str(missing))
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder)],
        env={**os.environ, **clock.variables(folder), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    steady, wall = map(float, done.stdout.split())
    assert 0 <= steady < 60
    assert wall < -86000
