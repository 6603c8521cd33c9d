import pytest
import torch
import torch.distributed as dist
from torch import nn

from concertina_api.errors import InvalidJob
from concertina_trainer.rounds.transport import Groups
from concertina_trainer.statistics.buffers import BufferMean
from tests import worlds


def batch(number):
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(number))


def batch_norm_after_steps(num_micro_batches):
    """Running statistics of a batch norm after two steps, and what the definition gives."""
    rank, world = dist.get_rank(), dist.get_world_size()
    model = nn.BatchNorm1d(3)
    mean = BufferMean(dict(model.named_buffers()))
    want = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for step in range(2):
        changes = []
        for number in range(num_micro_batches):
            twin = nn.BatchNorm1d(3)
            twin.load_state_dict(want, strict=False)
            twin(batch(100 * step + number))
            changes.append({name: twin.get_buffer(name) - want[name] for name in want})
        for slot in range(-(-num_micro_batches // world)):
            number = slot * world + rank
            model(batch(100 * step + number % num_micro_batches))
            mean.end_micro_batch(weight=1.0 if number < num_micro_batches else 0.0)
        seen = torch.tensor(mean.presence())
        dist.all_reduce(seen)
        mean.end_step(
            seen.tolist(),
            Groups(dist.get_rank(), dist.get_world_size(), None, mesh=None),
            num_micro_batches=num_micro_batches,
        )
        want["num_batches_tracked"] += 1
        for name in ("running_mean", "running_var"):
            want[name] += torch.stack([change[name] for change in changes]).mean(0)
    return {name: buffer.tolist() for name, buffer in model.named_buffers()}, {
        name: value.tolist() for name, value in want.items()
    }


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_running_statistics_take_the_mean_change_of_all_micro_batches(world_size):
    for found, want in worlds.run(batch_norm_after_steps, world_size, 5):
        assert found["num_batches_tracked"] == want["num_batches_tracked"] == 2
        for name in ("running_mean", "running_var"):
            assert found[name] == pytest.approx(want[name], abs=1e-6)


def test_a_buffer_that_cannot_be_averaged_is_refused_by_name():
    flag = torch.zeros(2, dtype=torch.bool)
    mean = BufferMean({"seen": flag})
    flag.logical_not_()

    with pytest.raises(InvalidJob, match=r"buffer seen of type torch\.bool changes"):
        mean.end_micro_batch(weight=1.0)


def test_a_dropped_step_leaves_buffers_at_their_value():
    counter = torch.zeros(2)
    mean = BufferMean({"counter": counter})
    counter += 3
    mean.end_micro_batch(weight=1.0)
    mean.discard()

    assert counter.tolist() == [0.0, 0.0]


def a_buffer_that_only_rank_0_changes():
    buffer, counter = torch.zeros(2), torch.zeros((), dtype=torch.int64)
    mean = BufferMean({"seen": buffer, "count": counter})
    if dist.get_rank() == 0:
        buffer += 4
        counter += 1
    mean.end_micro_batch(weight=1.0)
    presence = torch.tensor(mean.presence())
    dist.all_reduce(presence)
    mean.end_step(
        presence.tolist(),
        Groups(dist.get_rank(), dist.get_world_size(), None, mesh=None),
        num_micro_batches=2,
    )
    return buffer.tolist(), counter.item()


def test_a_buffer_that_only_some_micro_batches_change_is_the_same_on_all_ranks():
    assert worlds.run(a_buffer_that_only_rank_0_changes, 2) == [([2.0, 2.0], 1)] * 2
