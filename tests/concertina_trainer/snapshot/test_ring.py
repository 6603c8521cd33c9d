import pytest

from concertina_trainer.snapshot.ring import neighbours


@pytest.mark.parametrize("pods", [2, 3, 4, 7])
@pytest.mark.parametrize("workers_per_pod", [1, 2, 8])
def test_every_part_is_kept_once_and_in_another_pod(pods, workers_per_pod):
    world_size = pods * workers_per_pod
    keepers = {}
    for rank in range(world_size):
        ring = neighbours(rank, world_size=world_size, workers_per_pod=workers_per_pod)
        keepers[rank] = ring.keeper
        of_keeper = neighbours(ring.keeper, world_size=world_size, workers_per_pod=workers_per_pod)
        assert of_keeper.charge == rank
        assert ring.keeper // workers_per_pod == (rank // workers_per_pod + 1) % pods
        assert ring.keeper % workers_per_pod == rank % workers_per_pod
    assert sorted(keepers.values()) == list(range(world_size))


@pytest.mark.parametrize("workers_per_pod", [1, 4])
def test_one_pod_has_no_neighbour(workers_per_pod):
    assert neighbours(0, world_size=workers_per_pod, workers_per_pod=workers_per_pod) is None
