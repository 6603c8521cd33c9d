"""The command line: messages, exit codes, and one real run."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from concertina_operator import cli
from concertina_operator.local.record import read_rows, surviving_steps
from concertina_operator.manifest_file import dump_job
from tests.concertina_operator.local.processes import a_local_job, wait_until
from tests.concertina_operator.local.rows import a_step, write_rows


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(dump_job(a_local_job()))
    return path


def test_shows_its_version() -> None:
    assert invoke("--version").output.startswith("concertina, version 0.")


def test_lists_commands_of_other_packages_without_importing_them() -> None:
    program = (
        "import sys\nfrom concertina_operator.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    got = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    for name in ("export", "plan", "plot", "run", "validate"):
        assert f"  {name} " in got.stdout
    assert got.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("arguments", "want_message"),
    [
        pytest.param(("run", "nowhere.yaml"), "cannot read nowhere.yaml", id="run-no-file"),
        pytest.param(("validate", "nowhere.yaml"), "cannot read nowhere.yaml", id="validate"),
        pytest.param(("plan", "nowhere.yaml"), "cannot read nowhere.yaml", id="plan"),
        pytest.param(("plot", "nowhere"), "nowhere is no directory of a run", id="plot"),
        pytest.param(("rnu",), "No such command 'rnu'", id="unknown-command"),
        pytest.param(("run",), "Missing argument", id="no-manifest"),
    ],
)
def test_a_users_mistake_is_a_message_and_exit_code_2(
    arguments: tuple[str, ...], want_message: str
) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert want_message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_manifest_is_a_message_and_exit_code_2(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("samples:", "sampels:"))
    result = invoke("run", manifest)
    assert result.exit_code == 2
    assert "spec.sampels: unknown field (did you mean samples?)" in result.stderr


def test_validate_refuses_the_template_that_an_operator_would_refuse(tmp_path: Path) -> None:
    container = {"name": "main", "image": "x", "resources": {"limits": {"nvidia.com/gpu": 8}}}
    path = tmp_path / "job.yaml"
    pods = {"workersPerPod": 4, "template": {"spec": {"containers": [container]}}}
    path.write_text(dump_job(a_local_job(pods=pods)))
    result = invoke("validate", path)
    assert result.exit_code == 2
    assert "limit nvidia.com/gpu is 8, but workersPerPod is 4" in result.stderr


def test_validate_warns_of_checkpoints_that_end_with_their_pod() -> None:
    template = {"spec": {"containers": [{"name": "main", "image": "x"}]}}
    warning = cli.check_template(a_local_job(pods={"template": template}).spec)
    assert warning is not None
    assert "checkpoints end with the pod" in warning
    assert cli.check_template(a_local_job().spec) is None


def test_a_script_that_is_not_there_is_exit_code_2(manifest: Path) -> None:
    result = invoke("run", manifest, "--script", "nowhere.py")
    assert result.exit_code == 2
    assert "'nowhere.py' does not exist" in result.stderr


def test_the_directory_of_another_job_is_exit_code_2(manifest: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "job.yaml").write_text(dump_job(a_local_job("other")))
    result = invoke("run", manifest, "--run-dir", run_dir)
    assert result.exit_code == 2
    assert "belongs to another job" in result.stderr


def test_a_taken_port_is_exit_code_2(manifest: Path, tmp_path: Path) -> None:
    with socket.socket() as owner:
        owner.bind(("", 0))
        owner.listen()
        port = owner.getsockname()[1]
        arguments = ("run", manifest, "--run-dir", tmp_path / "run", "--metrics-port", port)
        result = invoke(*arguments)
    assert result.exit_code == 2
    assert f"metrics port {port} is taken" in result.stderr


@pytest.mark.parametrize("package", ["torch", "safetensors"])
def test_a_missing_trainer_names_the_extra(
    package: str, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = cli.importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == package else find_spec(name)
    )
    result = invoke("run", manifest)
    assert result.exit_code == 2
    assert "pip install 'concertina-training[trainer]'" in result.stderr


def test_a_reader_that_has_gone_changes_no_exit_code() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = (
        "import sys\nfrom concertina_operator.cli import close_with\n"
        "close_with('completed')\nsys.exit(130)"
    )
    command = [sys.executable, "-c", program]
    got = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (got.returncode, got.stderr) == (130, "")


def test_plan_prints_a_table_or_an_explanation(manifest: Path) -> None:
    table = invoke("plan", manifest)
    assert table.exit_code == 0
    assert "micro-batches" in table.output.splitlines()[1]
    told = invoke("plan", manifest, "--request", 32)
    assert told.exit_code == 0
    assert "then: create pod tiny-1" in told.output


def test_plot_prints_the_path_of_the_picture(tmp_path: Path) -> None:
    write_rows(tmp_path / "steps.jsonl", a_step(1), a_step(2))
    result = invoke("plot", tmp_path)
    assert result.exit_code == 0
    assert Path(result.output.strip()).stat().st_size > 1000


TINY = """\
apiVersion: concertina.dev/v1alpha1
kind: AdaptiveTrainingJob
metadata: {name: tiny}
spec:
  model: concertina_trainer.examples.bytes_lm:BytesLM
  config: {width: 16, heads: 2, layers: 1, context: 16, evaluation_windows: 16}
  samples: 100000000
  batch:
    microBatchSize: 4
    initial: 4
    max: 16
    maxAccumulation: 2
    rule: {name: Ramp, stages: [{samples: 40, batch: 16}]}
  training: {evaluateEverySamples: 100000}
  pods: {min: 1, max: 2}
  scaling: {scaleUpCooldownSeconds: 0}
"""


def test_a_real_run_grows_stops_by_ctrl_c_and_goes_on_where_it_was(tmp_path: Path) -> None:
    manifest, run_dir = tmp_path / "tiny.yaml", tmp_path / "run"
    manifest.write_text(TINY)
    command = [sys.executable, "-m", "concertina_operator.cli", "run", str(manifest)]
    command += ["--run-dir", str(run_dir)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    with (tmp_path / "output").open("w") as output:
        shell = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            wait_until(lambda: shell.poll() is not None or 2 in _world_sizes(run_dir), seconds=150)
            shell.send_signal(signal.SIGINT)
            told = (tmp_path / "output").read_text
            assert shell.wait(60) == 130, told()
        finally:
            shell.kill()
            shell.wait()
    assert "1 -> 2 workers" in told()
    stopped = json.loads((run_dir / "summary.json").read_text())
    assert stopped["outcome"] == "interrupted"
    assert _processes_of(run_dir) == []

    manifest.write_text(TINY.replace("max: 2}", "max: 1}"))  # any world size goes on
    more = ["--samples", str(stopped["samples"] + 160)]
    again = subprocess.run([*command, *more], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr

    rows = read_rows(run_dir / "steps.jsonl")
    steps = surviving_steps(rows)
    assert not [row for row in rows if row.discarded]  # Ctrl-C lost no step
    assert [row.step for row in steps] == list(range(1, len(steps) + 1))
    consumed = [row.samples - row.global_batch_size for row in steps]
    assert consumed == [0, *(row.samples for row in steps[:-1])]
    assert steps[-1].samples == stopped["samples"] + 160
    assert json.loads((run_dir / "summary.json").read_text())["outcome"] == "completed"
    assert (run_dir / "plot.png").exists()
    assert _processes_of(run_dir) == []


def _world_sizes(run_dir: Path) -> set[int]:
    return {row.world_size for row in surviving_steps(read_rows(run_dir / "steps.jsonl"))}


def _processes_of(run_dir: Path) -> list[str]:
    """Processes whose environment names the directory."""
    mark = f"CONCERTINA_RUN_DIR={run_dir}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(entry.name)
        except OSError:
            continue
    return found
