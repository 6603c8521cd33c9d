import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

from tests.models import (
    checkpoint_activations,
    loss_sum,
    seeded,
    shard,
    tokens,
)
from tests.worlds import run


def sharded_loss():
    model = shard(seeded(3), init_device_mesh("cpu", (torch.distributed.get_world_size(),)))
    groups = sum(isinstance(module, FSDPModule) for module in model.modules())
    return loss_sum(model, tokens(5, 2)).item(), groups


def test_values_depend_on_the_seed_alone():
    first, second, other = seeded(1), seeded(1), seeded(2)
    for one, same in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, same)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)
    assert first.head.weight is first.embedding.weight


def test_a_sample_does_not_depend_on_its_micro_batch():
    assert torch.equal(tokens(4, 4)[2:], tokens(6, 2))


def test_the_sharded_model_has_four_groups_and_the_loss_of_the_plain_one():
    want_loss = loss_sum(seeded(3), tokens(5, 2)).item()
    for loss, groups in run(sharded_loss, 3):
        assert loss == pytest.approx(want_loss, rel=1e-6)
        assert groups == 4


def test_recomputed_activations_give_the_same_gradient():
    models = seeded(0), checkpoint_activations(seeded(0))
    for model in models:
        loss_sum(model, tokens(0, 2)).backward()
    for plain, recomputed in zip(*(model.parameters() for model in models), strict=True):
        if plain.requires_grad:
            assert torch.equal(recomputed.grad, plain.grad)
