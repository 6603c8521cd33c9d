import pytest

from concertina_trainer.agent.failure import last_lines
from concertina_trainer.agent.worker_logs import trim

KEPT_BYTES = 2**20
LINE = b"x" * 1023 + b"\n"


def held_bytes(path):
    return path.stat().st_blocks * 512


def test_a_log_that_grows_for_ever_holds_its_end(tmp_path):
    log = tmp_path / "ab-0.stderr"
    with log.open("wb", buffering=0) as writer, log.open("rb") as follower:
        for number in range(4):
            for _ in range(1024):
                writer.write(LINE)
            writer.write(b"%d\n" % number)
            trim(log, kept_bytes=KEPT_BYTES)
            assert len(follower.read().splitlines()) == 1025

    assert log.stat().st_size == 4 * (1024 * 1024 + 2)
    assert held_bytes(log) < 2 * KEPT_BYTES + 8192
    assert last_lines(log, count=2) == "x" * 1023 + "\n3"


@pytest.mark.parametrize("size", [0, 1, KEPT_BYTES])
def test_a_small_log_is_left_whole(tmp_path, size):
    log = tmp_path / "ab-0.stderr"
    log.write_bytes(b"x" * size)

    trim(log, kept_bytes=KEPT_BYTES)

    assert log.read_bytes() == b"x" * size
