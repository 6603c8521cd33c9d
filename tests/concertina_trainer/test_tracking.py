import importlib.util
import json
import sys

import pytest

from concertina_api.errors import MissingPackage
from concertina_trainer.task import Task
from concertina_trainer.tracking import tensorboard, wandb

STEP = {"step": 3, "samples": 24, "time": 1.5, "loss": 2.5, "world_size": 2, "round": 1}
EVALUATION = {"evaluation": {"validation": 1.75}, "step": 3, "samples": 24, "time": 1.6}
DECISION = {
    "decision": {"requested": 16, "reason": "noise", "grow": True, "rule": "NormTest"},
    "step": 3,
    "samples": 24,
}


class Recorded(Task):
    def build(self): ...

    def dataset(self): ...

    def loss(self, model, batch): ...


def test_one_line_in_a_task_draws_the_run_in_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")

    class Tracked(Recorded):
        on_step = tensorboard(tmp_path / "curves")

    task = Tracked()
    assert not (tmp_path / "curves").exists(), "opened before the first row"
    for row in (STEP, EVALUATION, DECISION):
        assert task.on_step(row) is None
    task.on_step._writer.close()

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "curves")).Reload()
    got = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    assert got == {
        "loss": [(24, 2.5)],
        "world_size": [(24, 2.0)],
        "round": [(24, 1.0)],
        "evaluation/validation": [(24, 1.75)],
        "decision/requested": [(24, 16.0)],
        "decision/grow": [(24, 1.0)],
    }


STAND_IN = """
import json, os, pathlib
class Run:
    def define_metric(self, name, step_metric): assert step_metric == "samples"
    def log(self, row):
        with open(os.environ["LOGGED"], "a") as file: file.write(json.dumps(row) + "\\n")
def init(**options):
    pathlib.Path(os.environ["LOGGED"]).write_text(json.dumps(options) + "\\n")
    return Run()
"""


def test_weights_and_biases_goes_on_with_the_run_of_the_folder(tmp_path, monkeypatch):
    if importlib.util.find_spec("wandb"):
        pytest.skip("the package itself is installed and would call home")
    (tmp_path / "wandb.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CONCERTINA_RUN_DIR", str(tmp_path / "runs" / "tiny"))
    monkeypatch.setenv("LOGGED", str(tmp_path / "logged"))
    try:
        track = wandb("concertina")
        assert not (tmp_path / "logged").exists(), "opened before the first row"
        track(STEP)
        track(EVALUATION)
    finally:
        sys.modules.pop("wandb", None)
    options, *rows = map(json.loads, (tmp_path / "logged").read_text().splitlines())
    assert options == {"project": "concertina", "id": "tiny", "resume": "allow"}
    assert rows == [
        {"loss": 2.5, "world_size": 2.0, "round": 1.0, "samples": 24, "step": 3},
        {"evaluation/validation": 1.75, "samples": 24, "step": 3},
    ]


def test_without_the_package_the_extra_is_named():
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed here")
    with pytest.raises(MissingPackage, match=r"'wandb'.*concertina-training\[wandb\]"):
        wandb("concertina")
