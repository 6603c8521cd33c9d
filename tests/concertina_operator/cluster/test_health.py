import pytest

from concertina_operator.cluster.health import SILENCE_SECONDS, WAITING_SECONDS, complaints


@pytest.mark.parametrize(
    ("silent", "oldest", "want"),
    [
        pytest.param(0.0, 0.0, [], id="all is well"),
        pytest.param(SILENCE_SECONDS, WAITING_SECONDS, [], id="at the limits"),
        pytest.param(SILENCE_SECONDS + 1, 0.0, ["a watch is silent for 121 s > 120 s"], id="watch"),
        pytest.param(0.0, WAITING_SECONDS + 1, ["a job waits for 601 s > 600 s"], id="queue"),
    ],
)
def test_a_process_that_is_stuck_complains(silent, oldest, want):
    assert list(complaints(silent_seconds=silent, oldest_seconds=oldest)) == want
