import torch
from torch import nn

from concertina_api.v1alpha1 import Precision
from concertina_trainer.task import (
    Loss,
    StopTraining,
    Task,
    build,
    mixed_precision,
    repeated_blocks,
)


class Squares(Task):
    """A whole task of three methods."""

    def build(self):
        return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    def dataset(self):
        return [torch.ones(4)] * 100

    def loss(self, model, batch):
        return Loss(model(batch).square().sum(), weight=len(batch))


class Wrapped(Squares):
    """Renames what it wraps and adds parameters, as adapters do."""

    def build(self):
        return nn.ModuleDict({"inner": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4)})

    def prepare(self, model):
        return nn.ModuleDict({"base": model, "adapter": nn.Linear(4, 1)})


def test_tensors_keep_the_names_that_files_of_weights_know():
    names = build(Wrapped()).weight_names
    assert names["base.inner.weight"] == "inner.weight"
    assert names["base.norm.running_mean"] == "norm.running_mean"
    assert "adapter.weight" not in names


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.odd = nn.ModuleList([nn.Linear(2, 2), nn.LayerNorm(2)])
        self.body = nn.ModuleDict({"layers": nn.ModuleList([Experts(), Experts(), nn.ReLU()])})


def test_repeated_blocks_are_those_of_the_outermost_lists_whose_class_repeats():
    model = Nested()
    layers = model.body["layers"]
    assert list(repeated_blocks(model)) == [layers[0], layers[1]]
    assert list(repeated_blocks(nn.Linear(2, 2))) == []


def test_the_default_optimizer_decays_matrices_only():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer = Squares().optimizer(model.named_parameters())
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": 0.1,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
    }


def test_gradients_are_reduced_in_float32_whatever_the_precision():
    assert mixed_precision(Precision.FLOAT32).param_dtype is None
    policy = mixed_precision(Precision.BFLOAT16)
    assert (policy.param_dtype, policy.reduce_dtype) == (torch.bfloat16, torch.float32)


def test_a_step_may_ask_to_stop():
    class Satisfied(Squares):
        def on_step(self, record):
            return StopTraining("low enough") if record["loss"] < 1 else None

    task = Satisfied()
    assert task.on_step({"loss": 2.0}) is None
    assert task.on_step({"loss": 0.5}) == StopTraining("low enough")


def test_a_loss_is_a_sum_with_a_weight():
    loss = Squares().loss(nn.Identity(), torch.ones(3, 4))
    assert (loss.total.item(), loss.weight, dict(loss.metrics)) == (12.0, 3, {})
