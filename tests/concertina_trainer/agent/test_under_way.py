import os
import signal
import subprocess
import sys

import pytest

from concertina_trainer.agent.under_way import UnderWay, samples_under_way


def test_the_samples_under_way_are_read_by_another(tmp_path):
    path = tmp_path / "samples"
    with UnderWay(path) as mark:
        assert samples_under_way(path) is None
        mark.begin(range(2**40, 2**40 + 8))
        assert samples_under_way(path) == mark.samples() == range(2**40, 2**40 + 8)
        mark.end()
        assert samples_under_way(path) is None


def test_they_outlive_the_process_that_is_killed(tmp_path):
    path = tmp_path / "samples"
    code = (
        "import os, sys; from pathlib import Path\n"
        "from concertina_trainer.agent.under_way import UnderWay\n"
        "UnderWay(Path(sys.argv[1])).begin(range(16, 24)); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert samples_under_way(path) == range(16, 24)


def test_a_start_anew_forgets_them_and_leaves_the_old_process_its_own(tmp_path):
    path = tmp_path / "samples"
    with UnderWay(path) as old, UnderWay(path) as new:
        old.begin(range(8))
        assert samples_under_way(path) is None
        new.begin(range(8, 12))
        assert samples_under_way(path) == range(8, 12)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(None, id="absent"),
        pytest.param(b"short", id="cut short"),
        pytest.param(b"\xff" * 16, id="beyond any sample"),
        pytest.param(os.urandom(15), id="one byte less"),
    ],
)
def test_what_is_no_mark_says_nothing(tmp_path, data):
    path = tmp_path / "samples"
    if data is not None:
        path.write_bytes(data)
    assert samples_under_way(path) is None
