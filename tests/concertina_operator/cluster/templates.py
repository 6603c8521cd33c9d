"""Jobs with pod templates, as a user may write them."""

from typing import Any

from concertina_api.v1alpha1 import JobSpec
from tests.concertina_operator.factories import a_spec

JOB = {
    "metadata": {
        "name": "tiny-lm",
        "namespace": "ml",
        "uid": "11111111-2222-3333-4444-555555555555",
        "generation": 3,
    }
}
"""The API object of a job, as a list returns it: without kind, with what is needed."""


def a_container(**fields: Any) -> dict[str, Any]:
    """The container `trainer`."""
    return {"name": "trainer", "image": "registry.example/trainer:1"} | fields


def a_templated_spec(
    *containers: dict[str, Any], metadata: Any = None, workers: int = 1, **pod: Any
) -> JobSpec:
    """A job whose template has these containers (default: `trainer`) and these pod fields."""
    template: dict[str, Any] = {"spec": {"containers": list(containers or [a_container()])} | pod}
    if metadata is not None:
        template["metadata"] = metadata
    return a_spec(pods={"max": 4, "workersPerPod": workers, "template": template})
