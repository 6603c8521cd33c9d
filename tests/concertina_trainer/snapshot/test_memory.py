import pytest

from concertina_trainer.pod_memory import HostMemory
from concertina_trainer.snapshot.memory import shortage

GIB = 2**30


@pytest.mark.parametrize(
    ("used", "taken", "others", "want"),
    [
        pytest.param(0, 0, 0, True, id="all is free"),
        pytest.param(4 * GIB, 0, 0, True, id="just enough is free"),
        pytest.param(4 * GIB + 1, 0, 0, False, id="a byte too little"),
        pytest.param(8 * GIB, 4 * GIB, 0, True, id="what snapshots hold already is theirs"),
        pytest.param(2 * GIB, 0, 2 * GIB, True, id="checkpoints have enough, too"),
        pytest.param(2 * GIB, 0, 2 * GIB + 1, False, id="checkpoints go before snapshots"),
    ],
)
def test_two_sets_of_two_shards_for_each_worker_must_fit(used, taken, others, want):
    memory = HostMemory(limit=8 * GIB, used=used)

    problem = shortage(memory, shard_bytes=GIB // 2, workers=2, taken=taken, others=others)

    assert (problem == "") is want


@pytest.mark.parametrize(
    ("others", "free"),
    [(0, "1.00 GiB of 2.00 GiB are free"), (GIB // 4, "0.75 GiB of 2.00 GiB are free beside 0.25")],
)
def test_a_shortage_names_the_sizes(others, free):
    memory = HostMemory(limit=2 * GIB, used=GIB)

    problem = shortage(memory, shard_bytes=GIB // 2, workers=1, taken=0, others=others)

    assert problem.startswith(
        "snapshots need 2.00 GiB of the pod's memory (2 sets of 2 shards of 0.50 GiB for 1"
        f" workers), but {free}"
    )
