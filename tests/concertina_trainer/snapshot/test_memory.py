import pytest

from concertina_trainer.pod_memory import HostMemory
from concertina_trainer.snapshot.memory import shortage

GIB = 2**30


@pytest.mark.parametrize(
    ("used", "taken", "want"),
    [
        pytest.param(0, 0, True, id="all is free"),
        pytest.param(4 * GIB, 0, True, id="just enough is free"),
        pytest.param(4 * GIB + 1, 0, False, id="a byte too little"),
        pytest.param(8 * GIB, 4 * GIB, True, id="what snapshots hold already counts as theirs"),
    ],
)
def test_two_sets_of_two_shards_for_each_worker_must_fit(used, taken, want):
    memory = HostMemory(limit=8 * GIB, used=used)

    problem = shortage(memory, shard_bytes=GIB // 2, workers=2, taken=taken)

    assert (problem == "") is want


def test_a_shortage_names_the_sizes():
    memory = HostMemory(limit=2 * GIB, used=GIB)

    assert shortage(memory, shard_bytes=GIB // 2, workers=1, taken=0) == (
        "snapshots need 2.00 GiB of the pod's memory (2 sets of 2 shards of 0.50 GiB for 1"
        " workers), but 1.00 GiB of 2.00 GiB are free"
    )
