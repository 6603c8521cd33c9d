"""The probe against gradients of each micro-batch taken alone, in one process, in full."""

import contextlib
from dataclasses import dataclass
from functools import cache

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from concertina_api.batch import accumulation
from concertina_trainer.statistics.norms import local_square_norm
from concertina_trainer.statistics.probe import GradientProbe
from tests.models import (
    BFLOAT16,
    TinyLM,
    checkpoint_activations,
    compile_blocks,
    loss_sum,
    seeded,
    shard,
    tokens,
)
from tests.worlds import run

MICRO_BATCH = 2
NUM_MICRO_BATCHES = 5
"""Neither 2, 3 nor 4 divides it, so some ranks run a repeat."""
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    layout: str = "fsdp"
    reshard_after_forward: bool | int = True
    synchronize: str = "each"
    change: str = "none"
    repeats: int = 1

    def __str__(self):
        return "-".join(str(value) for value in vars(self).values())


PLAIN = [Case(layout="plain"), Case(layout="plain", change="checkpoint", repeats=2)]
FSDP = [
    Case(),
    Case(reshard_after_forward=False),
    Case(synchronize="last"),
    Case(repeats=2, change="checkpoint"),
    Case(repeats=2, synchronize="last"),
    Case(change="bfloat16"),
]
DDP = [Case(layout="ddp"), Case(layout="ddp", synchronize="last")]
FOUR = [
    Case(),
    Case(reshard_after_forward=2),
    Case(layout="hybrid"),
    Case(layout="hybrid", synchronize="last"),
    Case(layout="ddp"),
]
FULL_MATRIX = [
    Case(layout="fsdp", reshard_after_forward=after, synchronize=when, change=change, repeats=n)
    for after in (True, False)
    for when in ("each", "last")
    for change in ("none", "checkpoint", "bfloat16")
    for n in (1, 2)
]


def measure(cases):
    """(R, |g|^2) of each case, as a step of the loop would get them."""
    return [_measured(case) for case in cases]


def _measured(case):
    rank, world_size = dist.get_rank(), dist.get_world_size()
    model = _spread(_model(case), case)
    probe = GradientProbe(model)
    slots = accumulation(NUM_MICRO_BATCHES, world_size)
    for slot in range(slots):
        number = slot * world_size + rank
        real = number < NUM_MICRO_BATCHES
        batch = _micro_batch(number if real else 0)
        with _synchronized(model, case, last=slot == slots - 1):
            loss = loss_sum(model, batch)
            if real:
                with probe.micro_batch(float(MICRO_BATCH)):
                    loss.backward()
            else:
                (loss * 0.0).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    square_norm = local_square_norm(gradients, world_size=world_size)
    sums = torch.stack([probe.take(), square_norm])
    dist.all_reduce(sums)
    probe.detach()
    # The reduction averages over ranks; the mean gradient is the sum over all samples.
    averaged = 1 if case.layout == "plain" else world_size
    scale = averaged / (MICRO_BATCH * NUM_MICRO_BATCHES)
    return sums[0].item(), sums[1].item() * scale**2


def _model(case):
    model = seeded(7, repeats=case.repeats)
    match case.change:
        case "checkpoint":
            return checkpoint_activations(model)
        case "inductor" | "aot_eager" as backend:
            return compile_blocks(model, backend=backend)
    return model


def _spread(model, case):
    world_size = dist.get_world_size()
    match case.layout:
        case "fsdp" | "hybrid":
            shape = (2, world_size // 2) if case.layout == "hybrid" else (world_size,)
            return shard(
                model,
                init_device_mesh(
                    "cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :]
                ),
                reshard_after_forward=case.reshard_after_forward,
                precision=BFLOAT16 if case.change == "bfloat16" else None,
            )
        case "ddp":
            return DistributedDataParallel(model)
    return model


def _synchronized(model, case, *, last):
    if case.synchronize == "last" and case.layout == "ddp" and not last:
        return model.no_sync()
    if case.synchronize == "last" and case.layout in ("fsdp", "hybrid"):
        model.set_requires_gradient_sync(last)
    return contextlib.nullcontext()


def _micro_batch(number):
    return tokens(number * MICRO_BATCH, MICRO_BATCH)


@cache
def reference(case):
    """(R, |g|^2) from one plain model, each micro-batch's full gradient taken by autograd."""
    model = seeded(7, repeats=case.repeats)
    low_precision = case.change == "bfloat16"
    if low_precision:
        model.to(torch.bfloat16)
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = [torch.zeros(p.shape, dtype=torch.float64) for p in parameters]
    weighted_squares = 0.0
    for number in range(NUM_MICRO_BATCHES):
        gradients = torch.autograd.grad(loss_sum(model, _micro_batch(number)), parameters)
        squares = sum(g.double().square().sum().item() for g in gradients)
        weighted_squares += squares / MICRO_BATCH
        for seen, gradient in zip(total, gradients, strict=True):
            seen += gradient
    square_norm = sum(t.square().sum().item() for t in total)
    return weighted_squares, square_norm / (MICRO_BATCH * NUM_MICRO_BATCHES) ** 2


def check(cases, world_size):
    for by_case in run(measure, world_size, cases):
        for case, measured in zip(cases, by_case, strict=True):
            want = reference(Case(repeats=case.repeats, change=_numbers(case)))
            assert measured == pytest.approx(want, rel=_tolerance(case)), (world_size, str(case))


def _tolerance(case):
    # Between reductions FSDP adds the two uses of a tied weight in float32, autograd in bfloat16.
    rounded = case.change == "bfloat16" and case.synchronize == "last"
    return 1e-4 if rounded else TOLERANCE


def _numbers(case):
    """The part of the change that alters results: recomputing and compiling do not."""
    return case.change if case.change == "bfloat16" else "none"


@pytest.mark.parametrize(
    ("cases", "world_size"),
    [
        pytest.param(PLAIN + FSDP + DDP, 1, id="one rank"),
        pytest.param(FSDP + DDP, 2, id="two ranks"),
        pytest.param([Case(), DDP[0]], 3, id="three ranks"),
        pytest.param(FOUR, 4, id="four ranks"),
    ],
)
def test_both_sums_are_those_of_full_gradients(cases, world_size):
    check(cases, world_size)


def test_both_sums_are_right_with_compiled_blocks():
    check([Case(change="aot_eager")], 2)


@pytest.mark.matrix
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_both_sums_are_right_in_every_combination(world_size):
    check(FULL_MATRIX, world_size)


@pytest.mark.matrix
@pytest.mark.parametrize(
    "case",
    [
        Case(change="inductor"),
        Case(layout="plain", change="inductor"),
        Case(layout="ddp", change="inductor"),
        Case(change="inductor", synchronize="last"),
        Case(change="inductor", reshard_after_forward=False, repeats=2),
    ],
    ids=str,
)
def test_both_sums_are_right_with_compiled_blocks_in_other_layouts(case):
    check([case], 1 if case.layout == "plain" else 2)


def gradients_of(model):
    loss_sum(model, tokens(0, 2)).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_gradients_are_the_same_with_a_probe():
    watched = seeded(1)
    probe = GradientProbe(watched)
    with probe.micro_batch(2.0):
        measured = gradients_of(watched)
    for gradient, want_gradient in zip(measured, gradients_of(seeded(1)), strict=True):
        assert torch.equal(gradient, want_gradient)


class Offset(nn.Module):
    """A parameter without dimensions, which a hook could overwrite unseen."""

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return (self.offset * x).sum()


def test_each_micro_batch_is_divided_by_its_own_weight():
    model = Offset()
    probe = GradientProbe(model)
    for value, weight in ((3.0, 2.0), (5.0, torch.tensor(10.0))):
        with probe.micro_batch(weight):
            model(torch.tensor([value])).backward()
    assert probe.take().item() == pytest.approx(3.0**2 / 2 + 5.0**2 / 10)
    assert model.offset.grad.item() == 8.0
    assert probe.take().item() == 0.0


def test_passes_outside_a_micro_batch_and_weights_of_zero_add_nothing():
    model = Offset()
    probe = GradientProbe(model)
    model(torch.ones(1)).backward()
    for weight in (0.0, torch.zeros(())):
        with probe.micro_batch(weight):
            model(torch.zeros(1)).backward()
    assert probe.take().item() == 0.0


def test_a_micro_batch_that_failed_leaves_nothing_behind():
    model = Offset()
    probe = GradientProbe(model)

    def broken_pass():
        with probe.micro_batch(1.0):
            model(torch.ones(1)).backward()
            raise ConnectionError("peer is gone")

    with pytest.raises(ConnectionError):
        broken_pass()
    with probe.micro_batch(1.0):
        model(torch.full((1,), 2.0)).backward()
    assert probe.take().item() == 4.0


def test_a_gradient_that_is_not_finite_shows_in_the_sum():
    model = Offset()
    probe = GradientProbe(model)
    with probe.micro_batch(1.0):
        model(torch.tensor([torch.inf])).backward()
    assert not torch.isfinite(probe.take())


def test_a_detached_probe_sees_nothing():
    model = Offset()
    probe = GradientProbe(model)
    probe.detach()
    with probe.micro_batch(1.0):
        model(torch.ones(1)).backward()
    assert probe.take().item() == 0.0


def test_a_frozen_model_has_nothing_to_measure():
    model = TinyLM().requires_grad_(requires_grad=False)
    assert GradientProbe(model).take().item() == 0.0
