from pathlib import Path

import pytest
import yaml

from concertina_api.manifest import parse_job
from concertina_trainer.loading import check_dataset, check_model, load_task

MANIFESTS = sorted((Path(__file__).parents[2] / "manifests").glob("*.yaml"))


def test_there_are_manifests():
    assert [path.name for path in MANIFESTS][:1] == ["01-minimal.yaml"]


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in MANIFESTS])
def test_a_manifest_names_a_task_that_can_be_built(path):
    spec = parse_job(yaml.safe_load(path.read_text()), source=path.name).spec
    task = load_task(spec)
    assert check_model(task).weight_names
    if "data" not in spec.config:
        check_dataset(task, spec)
