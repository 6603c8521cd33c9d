import pytest
import torch
from torch.distributed.fsdp import FSDPModule

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import Precision
from concertina_trainer.examples.bytes_lm import BytesLM
from concertina_trainer.loading import check_model

SMALL = {"width": 32, "layers": 3, "heads": 2, "context": 16}


def test_the_demo_has_829_thousand_parameters_with_a_shared_embedding():
    model = check_model(BytesLM()).model
    assert sum(parameter.numel() for parameter in model.parameters()) == 828_544
    assert model.head.weight is model.embedding.weight
    assert list(model.buffers()) == []


def test_a_place_sees_nothing_after_it():
    model = BytesLM(**SMALL).build()
    tokens = torch.randint(256, (2, 16))
    changed = tokens.clone()
    changed[:, 9:] = 7
    torch.testing.assert_close(model(tokens)[:, :9], model(changed)[:, :9], rtol=0, atol=1e-6)
    assert not torch.equal(model(tokens)[:, 9:], model(changed)[:, 9:])


def test_the_same_seed_gives_the_same_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.nn.utils.parameters_to_vector(BytesLM(**SMALL).build().parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("precision", list(Precision))
def test_it_learns_when_sharded_block_by_block(train, precision):
    task = BytesLM(**SMALL)
    data = task.dataset()
    model, losses = train(
        task,
        steps=25,
        samples=lambda step: [data[1000 * step + i] for i in range(16)],
        rate=1e-2,
        precision=precision,
    )
    assert sum(isinstance(module, FSDPModule) for module in model.modules()) == 4
    assert losses[0] == pytest.approx(5.5, abs=0.3)
    assert sum(losses[-5:]) / 5 < 3.6


def test_the_loss_is_a_sum_over_target_bytes():
    task = BytesLM(**SMALL)
    loss = task.loss(task.build(), task.collate([task.dataset()[i] for i in range(3)]))
    assert loss.weight == 3 * 16


def test_evaluation_is_a_fixed_set_of_windows_of_held_out_files():
    task = BytesLM(evaluation_windows=50)
    windows = task.evaluation()["validation"]
    assert len(windows) == 50
    again = BytesLM(evaluation_windows=50).evaluation()["validation"]
    assert torch.equal(windows[49], again[49])


def test_heads_must_divide_the_width():
    with pytest.raises(InvalidJob, match="width 100 is not a multiple of heads 3"):
        BytesLM(width=100, heads=3)
