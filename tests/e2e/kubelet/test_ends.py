"""What a job says of pods that end before they train, in the words of a real kubelet."""

from typing import Any

import pytest

from tests.e2e.kubelet.runs import applied
from tests.tasks import job_document


def _with_failing_setup(pod: dict[str, Any]) -> None:
    (trainer,) = pod["containers"]
    setup = {name: trainer[name] for name in ("image", "imagePullPolicy", "volumeMounts")}
    pod["initContainers"] = [setup | {"name": "fetch", "command": ["/usr/bin/sh", "-c", "exit 6"]}]


def _without_its_program(pod: dict[str, Any]) -> None:
    (trainer,) = pod["containers"]
    trainer["command"] = ["/absent/python3"]


@pytest.mark.parametrize(
    ("change", "want"),
    [
        pytest.param(
            _with_failing_setup,
            "-0 failed (ExitCode): init container fetch ended with code 6",
            id="an init container fails",
        ),
        pytest.param(
            _without_its_program,
            "-0 failed (ExitCode): exit code 128: StartError: ",
            id="the program is not in the image",
        ),
    ],
)
def test_a_pod_that_ends_before_it_trains_is_a_failure_in_the_kubelets_words(
    node_cluster, operator, tmp_path, change, want
):
    document = job_document(failurePolicy={"backoffLimit": 0})
    with applied(node_cluster, operator, tmp_path / "run", document, change=change) as run:
        run.kubectl("wait", f"atj/{run.name}", "--for=condition=Failed", "--timeout=60s")
        failed = run.condition("Failed")
        assert failed["reason"] == "BackoffLimitExceeded"
        assert f"{run.name}{want}" in failed["message"]
