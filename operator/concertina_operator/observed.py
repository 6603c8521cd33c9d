"""What a reconcile knows: plain facts about one job, its pods, its membership and their reports.

Built by a shell (local processes, or Kubernetes) before each plan; nothing in it is a client
object. Pure: no I/O, no clock.

    Observed(job=..., membership=None, reports={}, granted=None, pods=())

`job.status` must be the status of the previous plan: the shell stores `plan.status` before it
acts and hands it back here, because cooldowns, deadlines and counted failures live there.
`reports` are as read; the plan itself decides which of them count (see `acceptance.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from concertina_api.v1alpha1 import AdaptiveTrainingJob, Membership, Report


class Phase(StrEnum):
    """A pod's phase in Kubernetes' words; a local process is Running until it exits."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """One pod object, terminating ones included."""

    name: str
    uid: str
    created: datetime
    """By the clock of who created it."""
    seen: datetime | None = None
    """When this process first saw it; None when `created` is by the clock of the plans."""
    phase: Phase = Phase.PENDING
    placed: bool = True
    """A node is kept for it, and its GPUs with that."""
    node: str = ""
    """Name of that node; empty where there are none."""
    addresses: tuple[str, ...] = ()
    """Its IPs, once it has them; empty where nobody gives out addresses."""
    ready: bool = False
    """Shown to people only: admission goes by the report."""
    outdated: bool = False
    """It was built from an older template than the job has now; it keeps that."""
    deleting: bool = False
    """The pod has a deletionTimestamp (or its process was told to end by a DeletePod)."""
    grace_seconds: int | None = None
    """Seconds from SIGTERM to SIGKILL; None unless it is being deleted."""
    exit_code: int | None = None
    """Exit code of the trainer container (a signal as -n or 128 + n); None until it ended."""
    setup_failed: bool = False
    """An init container ended badly, so the trainer container never started."""
    disrupted: bool = False
    """Kubernetes ended it, for reasons of its own: an eviction, a preemption, a taint."""
    out_of_memory: bool = False
    """Its trainer container was killed at its memory limit."""
    notice: str = ""
    """Who says that it is about to be told to end, in words; empty when nobody does."""
    ending: str = ""
    """Why it ended, in the server's words, as far as they say more than the exit code."""
    message: str = ""
    """Why the pod is not running, in the server's words."""

    @property
    def waits_since(self) -> datetime:
        """Since when it can have been waited for, by the clock of the plans."""
        return self.seen or self.created

    @property
    def ended(self) -> bool:
        """No trainer will ever run in it again."""
        return self.exit_code is not None or self.is_terminal

    @property
    def is_terminal(self) -> bool:
        """Nothing runs in it any more, sidecars included."""
        return self.phase in (Phase.SUCCEEDED, Phase.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything that a plan is computed from."""

    job: AdaptiveTrainingJob
    membership: Membership | None = None
    reports: Mapping[str, Report] = field(default_factory=dict)
    """Newest report of each pod, by pod name, as read."""
    granted: int | None = None
    """Pods that a queue or a quota allows now; None means no limit but max."""
    pods: tuple[PodFacts, ...] = ()
    membership_taken: bool = False
    """The membership's name belongs to somebody else: no round can be published."""
    template_fault: str = ""
    """Why no pod can be created of the template, in words; empty when pods can be."""
    known_since: datetime | None = None
    """When this process first looked at the job; None when no other has planned it."""
