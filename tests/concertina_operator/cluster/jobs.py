"""Documents of jobs as a user writes them."""

from typing import Any


def a_job(name: str = "tiny-lm", **spec: Any) -> dict[str, Any]:
    """A job that says no more than it must, and what the test adds to its spec."""
    return {
        "apiVersion": "concertina.dev/v1alpha1",
        "kind": "AdaptiveTrainingJob",
        "metadata": {"name": name},
        "spec": {
            "model": "package.module:Task",
            "samples": 1000,
            "batch": {"microBatchSize": 8, "initial": 16, "max": 64},
            **spec,
        },
    }
