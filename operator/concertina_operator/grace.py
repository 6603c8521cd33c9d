"""Says when pods have too little time to leave in order: a step and a hand-over outlast their grace.

Called by statement.py after each resize, and by the shells for the grace of a pod whose template
names none. Pure: no I/O, no clock. Nothing is lost by a short grace: a step that cannot end in time
is dropped, and those who stay run its samples again. It is time that is wasted.
"""

from collections.abc import Mapping
from typing import Final

from concertina_api.v1alpha1 import JobSpec, JobStatus

DEFAULT_GRACE_SECONDS: Final = 120
"""Kubernetes' own 30 are short for a step of a large model and a hand-over."""


def grace_shortfall(spec: JobSpec, *, status: JobStatus) -> str:
    """Why the grace period is too short, by what was measured; "" when it is not, or unknown."""
    grace, resize = _grace_seconds(spec), status.last_resize
    rate = status.progress.samples_per_second
    if resize is None or resize.pause_seconds is None or not rate:
        return ""
    step_seconds = status.batch.effective / rate
    if step_seconds + resize.pause_seconds <= grace:
        return ""
    return (
        f"a step takes {step_seconds:.3g} s and the last hand-over took"
        f" {resize.pause_seconds:.3g} s, together more than the {grace} s of"
        " terminationGracePeriodSeconds: a pod that leaves drops its step, which is run again"
    )


def _grace_seconds(spec: JobSpec) -> int:
    """The grace of the job's template; what is no number is refused elsewhere."""
    pod = spec.pods.template.get("spec")
    grace = pod.get("terminationGracePeriodSeconds") if isinstance(pod, Mapping) else None
    return grace if isinstance(grace, int) else DEFAULT_GRACE_SECONDS
