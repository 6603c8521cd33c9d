import sys

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from concertina_api.errors import InvalidJob, MissingPackage
from concertina_api.v1alpha1 import JobSpec
from concertina_trainer.loading import check_dataset, check_model, load_task
from concertina_trainer.task import (
    Loss,
    Task,
)

HERE = __name__


class Squares(Task):
    """A whole task, with a knob."""

    def __init__(self, *, width: int = 4, depth: int = 2):
        if width < 1:
            raise ValueError(f"width {width} is below 1")
        self.width = width
        self.depth = depth

    def build(self):
        return nn.Sequential(*(nn.Linear(self.width, self.width) for _ in range(self.depth)))

    def dataset(self):
        return [torch.ones(self.width)] * 100

    def loss(self, model, batch):
        return Loss(model(batch).square().sum(), weight=len(batch))


class Bare:
    """Three methods and no base class; collate happens to be there too."""

    def build(self):
        return nn.Linear(2, 2)

    def dataset(self):
        return [torch.ones(2)] * 10

    def loss(self, model, batch):
        return Loss(model(batch).sum(), weight=1.0)

    def collate(self, samples):
        return torch.stack(samples) + 1


class NoLoss:
    def build(self): ...

    def dataset(self): ...


class NoData(Task):
    def build(self): ...

    def loss(self, model, batch): ...


class Picky(Squares):
    def __init__(self, *, data):
        super().__init__()
        self.data = data


def made(*, width=4):
    return Squares(width=width)


ready = Squares(width=3)
number = 7


def spec_of(model, *, initial=8, maximum=16, **config):
    return JobSpec.model_validate(
        {
            "model": model if ":" in model else f"{HERE}:{model}",
            "config": config,
            "samples": 100,
            "batch": {"microBatchSize": 4, "initial": initial, "max": maximum},
        }
    )


@pytest.mark.parametrize(
    ("model", "config", "want_width"),
    [
        pytest.param("Squares", {"width": 5}, 5, id="class"),
        pytest.param("made", {"width": 6}, 6, id="function"),
        pytest.param("ready", {}, 3, id="instance"),
    ],
)
def test_a_task_is_a_class_a_function_or_an_instance(model, config, want_width):
    task = load_task(spec_of(model, **config))
    assert isinstance(task, Task)
    assert task.width == want_width


def test_three_methods_are_enough():
    task = load_task(spec_of("Bare"))
    assert isinstance(task, Task)
    assert len(task.dataset()) == 10
    assert task.loss(task.build(), task.collate([torch.zeros(2)])).weight == 1.0
    assert task.collate([torch.zeros(2)]).tolist() == [[1.0, 1.0]]
    assert (task.weights(), dict(task.evaluation()), task.learning_rate(0, 8)) == (None, {}, None)


@pytest.mark.parametrize(
    ("model", "config", "want"),
    [
        pytest.param("no_such:Task", {}, "no module 'no_such' on", id="module"),
        pytest.param("torch.no_such:Task", {}, r"no module 'torch\.no_such' on", id="submodule"),
        pytest.param("Squres", {}, "has no 'Squres'", id="attribute"),
        pytest.param("number", {}, "is a int, not a task", id="not callable"),
        pytest.param("Squares", {"widht": 5}, r"config\.widht: .*did you mean width\?", id="typo"),
        pytest.param("Squares", {"zzz": 5}, r"config\.zzz: .*known: width, depth", id="unknown"),
        pytest.param("Picky", {}, r"config\.data: .* needs it", id="missing keyword"),
        pytest.param("Squares", {"width": 0}, "ValueError: width 0 is below 1", id="refused"),
        pytest.param("ready", {"width": 3}, "ready instance and takes no config", id="instance"),
        pytest.param("NoLoss", {}, "NoLoss has no loss", id="method of a bare task"),
        pytest.param("NoData", {}, "has no dataset", id="method of a Task"),
    ],
)
def test_what_cannot_be_a_task_is_refused_in_words(model, config, want):
    with pytest.raises(InvalidJob, match=want):
        load_task(spec_of(model, **config))


@pytest.mark.parametrize(
    ("source", "want_error", "want"),
    [
        pytest.param("import nonesuch", InvalidJob, "needs 'nonesuch'", id="package"),
        pytest.param("import wandb.nonesuch", MissingPackage, r"training\[wandb\]", id="optional"),
        pytest.param("1 / 0", InvalidJob, "importing .* ZeroDivisionError", id="error"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(tmp_path, monkeypatch, source, want_error, want):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "users_module.py").write_text(source)
    with pytest.raises(want_error, match=want):
        load_task(spec_of("users_module:task"))


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


class Endless(Dataset):
    def __getitem__(self, index):
        return index


class Sized:
    def __len__(self):
        return 100


class WithData(Squares):
    def __init__(self, data):
        super().__init__()
        self.data = data

    def dataset(self):
        return self.data


@pytest.mark.parametrize(
    ("data", "want"),
    [
        pytest.param(Stream(), "Stream is an IterableDataset", id="iterable"),
        pytest.param(Endless(), "Endless has no __len__", id="endless"),
        pytest.param(Sized(), r"Sized has neither __getitem__ nor item\(", id="no items"),
        pytest.param([0] * 7, "has 7 samples, fewer than one step: initial 8", id="short"),
    ],
)
def test_data_that_the_loop_cannot_take_is_refused(data, want):
    with pytest.raises(InvalidJob, match=want):
        check_dataset(WithData(data), spec_of("Squares"))


def test_a_step_that_spans_epochs_is_told(caplog):
    assert len(check_dataset(WithData([0] * 10), spec_of("Squares"))) == 10
    assert "a step of 16 samples spans epochs of 10 samples" in caplog.text


class Reading(Squares):
    def build(self):
        model = super().build()
        if model[0].weight.sum().item() > 0:
            raise AssertionError
        return model


class OnCpu(Squares):
    def build(self):
        return nn.Linear(2, 2, device="cpu")


class Half(Squares):
    def build(self):
        return nn.Linear(2, 2, dtype=torch.float16)


class Frozen(Squares):
    def prepare(self, model):
        return model.requires_grad_(False)


class Scaled(Squares):
    scaler = torch.amp.GradScaler("cpu", enabled=False)


class Scheduled(Squares):
    def __init__(self):
        super().__init__()
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))])
        self.schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)


@pytest.mark.parametrize(
    ("task", "want"),
    [
        pytest.param(Reading(), "cannot be built on the meta device.*RuntimeError", id="reads"),
        pytest.param(OnCpu(), "weight is on cpu though built under", id="device"),
        pytest.param(Half(), "weight is float16, which needs a GradScaler", id="float16"),
        pytest.param(Frozen(), "no parameter that requires a gradient", id="frozen"),
        pytest.param(Scaled(), "scaler is a GradScaler", id="scaler"),
        pytest.param(Scheduled(), "schedule is a learning-rate scheduler", id="scheduler"),
    ],
)
def test_a_model_that_training_cannot_use_is_refused(task, want):
    with pytest.raises(InvalidJob, match=want):
        check_model(task)


def test_a_good_model_is_built_without_memory():
    model = check_model(Squares(width=1_000_000)).model
    assert all(parameter.is_meta for parameter in model.parameters())
