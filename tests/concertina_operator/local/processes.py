"""What the tests of the shell share: a manifest, the fake agent, and looking for processes."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from concertina_api.v1alpha1 import AdaptiveTrainingJob

FAKE_AGENT = (sys.executable, str(Path(__file__).with_name("fake_agent.py")))


def a_local_job(name: str = "tiny", **spec: Any) -> AdaptiveTrainingJob:
    return AdaptiveTrainingJob.model_validate(
        {
            "metadata": {"name": name},
            "spec": {
                "model": "some.module:task",
                "samples": 400,
                "batch": {"microBatchSize": 4, "initial": 8, "max": 32, "maxAccumulation": 4},
                "pods": {"min": 1, "max": 2},
                "scaling": {"scaleUpCooldownSeconds": 0},
            }
            | spec,
        }
    )


def wait_until(condition: Callable[[], Any], *, seconds: float = 20.0) -> Any:
    """The first true value of the condition."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {seconds} s: {condition}")
        time.sleep(0.02)
    return value


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
