"""The status of a job whose spec breaks a rule that the API server does not know.

Called by the reconcile: nothing is planned for such a job, but what its pods hold is counted on.
Pure: no I/O, no clock.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from concertina_api.v1alpha1 import ConditionType, JobStatus
from concertina_operator.conditions import Claim, conditions
from concertina_operator.ledger import gpu_clock
from concertina_operator.observed import PodFacts


def invalid_status(
    document: Mapping[str, Any],
    *,
    before: JobStatus,
    message: str,
    pods: Iterable[PodFacts],
    now: datetime,
) -> JobStatus:
    """What is said of the job; `pods` are its own, `message` says which rule it breaks."""
    claim = Claim(type=ConditionType.READY, holds=False, reason="InvalidJob", message=message)
    generation = document["metadata"]["generation"]
    return before.model_copy(
        update={
            "observed_generation": generation,
            "state": "Invalid",
            "conditions": conditions(before.conditions, (claim,), generation=generation, now=now),
            **gpu_clock(before, pods=pods, workers_per_pod=_workers_per_pod(document), now=now),
        }
    )


def _workers_per_pod(document: Mapping[str, Any]) -> int:
    """Workers of a pod of this spec, which the server lets nobody change; 1 where it has none."""
    spec = document.get("spec")
    pods = spec.get("pods") if isinstance(spec, Mapping) else None
    workers = pods.get("workersPerPod") if isinstance(pods, Mapping) else None
    return workers if isinstance(workers, int) and workers > 0 else 1
