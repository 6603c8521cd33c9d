import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from concertina_trainer.statistics.norms import local_square_norm, square_norm
from tests.worlds import run

TOLERANCE = 1e-5
GENERATOR = torch.Generator().manual_seed(0)


def noise(*shape):
    return torch.randn(*shape, generator=GENERATOR)


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(torch.tensor(-3.0), id="a scalar"),
        pytest.param(noise(0, 7), id="no rows"),
        pytest.param(noise(515, 66), id="uneven rows"),
        pytest.param(noise(3 * 4096), id="whole blocks"),
        pytest.param(noise(300, 200).t(), id="not contiguous"),
        pytest.param(noise(1, 20_000).expand(3, -1), id="expanded"),
        pytest.param(noise(70_000).to(torch.bfloat16), id="bfloat16"),
        pytest.param(noise(70_000).to(torch.float16), id="float16"),
        pytest.param(noise(5000).double(), id="float64"),
    ],
)
def test_the_square_norm_is_that_of_double_precision(tensor):
    want_square_norm = tensor.double().square().sum().item()
    assert square_norm(tensor).item() == pytest.approx(want_square_norm, rel=TOLERANCE, abs=0)


def test_the_square_norm_of_a_large_tensor_is_not_low():
    large = torch.full((8_000_000,), 0.1)
    want_square_norm = 8_000_000 * large[0].double().item() ** 2
    assert square_norm(large).item() == pytest.approx(want_square_norm, rel=TOLERANCE)


def test_bfloat16_squares_do_not_underflow():
    tiny = torch.full((70_000,), 1e-18, dtype=torch.bfloat16)
    assert square_norm(tiny).item() == pytest.approx(70_000e-36, rel=0.01)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_shows(value):
    gradient = noise(10_000)
    gradient[1234] = value
    assert not torch.isfinite(square_norm(gradient))


def shares():
    world_size = torch.distributed.get_world_size()
    full = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    mesh = init_device_mesh("cpu", (world_size,))
    grid = init_device_mesh("cpu", (2, world_size // 2))
    spread = {
        "plain": full,
        "sharded": _spread(full, mesh, [Shard(0)]),
        "replicated": _spread(full, mesh, [Replicate()]),
        "hybrid": _spread(full, grid, [Replicate(), Shard(0)]),
    }
    return {
        name: local_square_norm([gradient], world_size=world_size).item()
        for name, gradient in spread.items()
    }


def _spread(full, mesh, placements):
    from torch.distributed.tensor import distribute_tensor

    spread = distribute_tensor(full, mesh, placements)
    assert isinstance(spread, DTensor)
    return spread


def test_shares_of_all_ranks_add_up_to_the_square_norm():
    by_rank = run(shares, 4)
    want_square_norm = (
        torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double().square().sum().item()
    )
    for layout in by_rank[0]:
        total = sum(ranks[layout] for ranks in by_rank)
        assert total == pytest.approx(want_square_norm, rel=TOLERANCE), layout


def test_no_gradient_has_the_square_norm_zero():
    assert local_square_norm([], world_size=2).item() == 0.0
