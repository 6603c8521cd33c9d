"""The shipped manifests are valid, and name tasks that can be trained."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from concertina_trainer import validate
from tests.e2e.runs import environment

FOLDER = Path(__file__).parents[2] / "manifests"
MANIFESTS = sorted(FOLDER.glob("*.yaml"))
each = pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in MANIFESTS])


def test_they_are_numbered_from_the_smallest_on():
    numbers = [int(path.name.partition("-")[0]) for path in MANIFESTS]

    assert numbers == list(range(1, len(numbers) + 1))
    assert MANIFESTS[0].name == "01-minimal.yaml"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the token files that the manifest of a Llama names."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "data").mkdir()
    for name in ("train", "val"):
        tokens = np.arange(512 * 64 + 1, dtype="<u2") % 50304
        tokens.tofile(folder / "data" / f"{name}.bin")
    return folder


@each
def test_its_model_and_data_set_can_be_trained(path, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(FOLDER)

    assert validate.main(str(path)) == 0, capsys.readouterr().err
    assert "\nsteps: " in capsys.readouterr().out


@pytest.mark.matrix
@each
def test_concertina_validate_says_so(path, workplace):
    command = [sys.executable, "-m", "concertina_operator.cli", "validate", str(path)]
    variables = environment()
    variables["PYTHONPATH"] += f":{FOLDER}"
    done = subprocess.run(command, cwd=workplace, env=variables, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{path}: the manifest of ")
    assert "\nsteps: " in done.stdout
