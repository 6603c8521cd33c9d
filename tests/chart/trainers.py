"""Jobs whose pods run the trainer's image on the real node. Pure but for the job's folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from concertina_operator.cluster.environment import RUN_PATH
from tests.cluster.pods import REPOSITORY
from tests.e2e.kubelet.documents import growing
from tests.e2e.kubelet.runs import GRACE_SECONDS
from tests.images.images import Image, torch_template

SENSITIVE = 0.01
"""The norm test asks for a larger batch when noise is so small a part of the gradient."""
STEP_SECONDS = 0.1
"""A pass takes at least so long: the machine has other things to do too."""
CHECKPOINT_SECONDS = 5
TESTS = "/opt/tests"
"""Where pods find the package `tests`, of which the tasks are; all else is the image's."""


def growing_job(image: Image, folder: Path) -> dict[str, Any]:
    """A job of one pod that wants a second one soon, and trains until it is told to end.

    It has all that is watched: a rule with a threshold, which it exceeds at once, and checkpoints.
    """
    document = growing()
    spec = document["spec"]
    spec["config"]["step_seconds"] = STEP_SECONDS
    interval = {"horizonSamples": 32, "everySamples": 8, "holdSamples": 8}
    spec["batch"]["rule"] = {"name": "NormTest", "eta": SENSITIVE, **interval}
    spec["checkpoint"]["everySeconds"] = CHECKPOINT_SECONDS
    spec["pods"]["template"] = template(image, folder)
    return document


def waiting_job(image: Image) -> dict[str, Any]:
    """A job whose pod no node takes."""
    document = growing()
    pods = document["spec"]["pods"]
    pods["template"] = torch_template(image)
    pods["template"]["spec"]["nodeSelector"] = {"example.com/no-node": "has-this"}
    return document | {"metadata": {"name": "waiting"}}


def template(image: Image, folder: Path) -> dict[str, Any]:
    """Pods that share this folder, in which everybody may write: the image is of no user's."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    made = torch_template(image, environment={"PYTHONPATH": TESTS})
    spec = made["spec"]
    spec["terminationGracePeriodSeconds"] = GRACE_SECONDS
    (container,) = spec["containers"]
    _mount(spec, container, "run", RUN_PATH, host=folder)
    _mount(spec, container, "tests", f"{TESTS}/tests", host=REPOSITORY / "tests", readOnly=True)
    return made


def _mount(
    pod: dict[str, Any],
    container: Mapping[str, Any],
    name: str,
    path: str,
    *,
    host: Path,
    **more: Any,
) -> None:
    container["volumeMounts"].append({"name": name, "mountPath": path, **more})
    pod["volumes"].append({"name": name, "hostPath": {"path": str(host), "type": "Directory"}})
