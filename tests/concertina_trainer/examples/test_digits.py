import torch

from concertina_trainer.examples.digits import Digits, split_digits
from concertina_trainer.loading import check_model
from concertina_trainer.task import build


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_it_learns_and_batch_norm_follows(train):
    task = Digits(channels=8)
    data = task.dataset()
    model, losses = train(
        task,
        steps=120,
        samples=lambda step: [data.item((32 * step + i) % 1400, generator(i)) for i in range(32)],
        rate=1e-2,
    )
    assert sum(losses[-10:]) / 10 < 0.5 < losses[0]
    assert model.layers[1].num_batches_tracked == 120

    model.eval()
    held_out = task.evaluation()["validation"]
    with torch.no_grad():
        loss = task.loss(model, task.collate([held_out[i] for i in range(len(held_out))]))
    assert loss.metrics["accuracy"] / loss.weight > 0.8


def test_every_image_is_either_trained_on_or_held_out():
    training, validation = split_digits()
    assert (len(training), len(validation)) == (1437, 360)
    assert set(validation.labels.tolist()) == set(range(10))
    assert 0 <= training.images.min() < training.images.max() <= 1


def test_a_shift_is_drawn_from_the_generator_of_the_sample():
    data = Digits().dataset()
    image, label = data.item(5, generator(1))
    same, _ = data.item(5, generator(1))
    others = [data.item(5, generator(seed))[0] for seed in range(20)]
    assert (image.shape, label.dtype) == ((1, 8, 8), torch.int64)
    assert torch.equal(image, same)
    assert len({tuple(other.flatten().tolist()) for other in others}) > 4
    original, _ = split_digits().training[5]
    assert any(torch.equal(other, original) for other in others)


def test_batch_norm_depends_on_its_own_micro_batch_alone():
    """The gradient of a step is a mean over micro-batches, each with statistics of its own."""
    torch.manual_seed(0)
    task = Digits()
    model = build(task).model
    data = task.evaluation()["validation"]
    one, other = (task.collate([data[i] for i in range(n, n + 8)]) for n in (0, 8))
    alone = model(one[0])
    torch.testing.assert_close(model(one[0]), alone)
    together = model(torch.cat([one[0], other[0]]))[:8]
    assert not torch.allclose(together, alone, atol=1e-4)


def test_it_can_be_built_without_values():
    assert check_model(Digits()).weight_names["layers.1.running_mean"] == "layers.1.running_mean"
