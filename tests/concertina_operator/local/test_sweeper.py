"""Ending processes by a mark in their environment."""

import os
import subprocess
import sys
from pathlib import Path

from concertina_operator.local.sweeper import end_marked
from tests.concertina_operator.local.processes import is_alive, wait_until

# A child that leaves its parent's session and outlives it.
ORPHAN = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         stdout=subprocess.DEVNULL, start_new_session=True)
print(child.pid, flush=True)
"""


def _orphan(mark: str) -> int:
    process = subprocess.run(
        [sys.executable, "-c", ORPHAN],
        env=os.environ | {"SWEEPER_TEST": mark},
        stdout=subprocess.PIPE,
        check=True,
    )
    return int(process.stdout)


def test_ends_a_process_that_left_its_session_and_its_parent(tmp_path: Path) -> None:
    mine, other = _orphan(str(tmp_path)), _orphan(f"{tmp_path}-other")
    assert is_alive(mine)

    assert end_marked("SWEEPER_TEST", str(tmp_path)) == 0

    assert not is_alive(mine)
    assert is_alive(other)
    end_marked("SWEEPER_TEST", f"{tmp_path}-other")


def test_as_a_program_sweeps_when_its_input_closes(tmp_path: Path) -> None:
    pid = _orphan(str(tmp_path))
    command = [sys.executable, "-m", "concertina_operator.local.sweeper"]
    sweeper = subprocess.Popen([*command, "SWEEPER_TEST", str(tmp_path)], stdin=subprocess.PIPE)
    assert sweeper.stdin is not None
    assert is_alive(pid)

    sweeper.stdin.close()

    assert sweeper.wait(20) == 0
    wait_until(lambda: not is_alive(pid))
