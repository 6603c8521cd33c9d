"""Where a worker finds itself: its environment, read and checked once.

The agent sets these variables. A worker that runs under a plain torchrun has none of them and
trains in the one round that torchrun's own variables describe.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from concertina_api.errors import InvalidJob
from concertina_trainer.loop.static import is_static, static_round


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """Identity and folders of a worker."""

    pod: str
    uid: str
    incarnation: str
    local_rank: int
    mailbox: Path
    run_dir: Path
    device: torch.device
    shares_storage: bool = True
    """Whether all pods see one folder of checkpoints; else each has its own, which ends with it."""

    @property
    def name(self) -> str:
        """Identity of the worker, as in Membership.workers()."""
        return f"{self.uid}.{self.incarnation}/{self.local_rank}"


def worker_context(environment: Mapping[str, str] = os.environ) -> WorkerContext:
    """The context that the agent, or torchrun, has set. Raises InvalidJob naming what is missing."""
    local_rank = environment.get("LOCAL_RANK", "0")
    if not local_rank.isdecimal():
        raise InvalidJob(f"LOCAL_RANK {local_rank!r} is not a number")
    if is_static(environment):
        return _under_torchrun(environment, int(local_rank))
    names = ("POD", "UID", "INCARNATION", "MAILBOX", "RUN_DIR")
    values = {name: environment.get(f"CONCERTINA_{name}", "") for name in names}
    missing = [f"CONCERTINA_{name}" for name, value in values.items() if not value]
    if missing:
        raise InvalidJob(f"a worker is started by its agent; missing: {', '.join(missing)}")
    return WorkerContext(
        pod=values["POD"],
        uid=values["UID"],
        incarnation=values["INCARNATION"],
        local_rank=int(local_rank),
        mailbox=Path(values["MAILBOX"]),
        run_dir=Path(values["RUN_DIR"]),
        device=_device(int(local_rank)),
        shares_storage=_shares_storage(environment.get("CONCERTINA_STORAGE") or "Shared"),
    )


def _shares_storage(storage: str) -> bool:
    if storage not in ("Pod", "Shared"):
        raise InvalidJob(f"CONCERTINA_STORAGE {storage!r} is neither Pod nor Shared")
    return storage == "Shared"


def _under_torchrun(environment: Mapping[str, str], local_rank: int) -> WorkerContext:
    """Each rank stands for a pod of one worker; the record goes to CONCERTINA_RUN_DIR, or here."""
    member, mailbox = static_round(environment)
    return WorkerContext(
        pod=member.pod,
        uid=member.uid,
        incarnation=member.incarnation,
        local_rank=0,
        mailbox=mailbox,
        run_dir=Path(environment.get("CONCERTINA_RUN_DIR") or "."),
        device=_device(local_rank),
    )


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise InvalidJob(
            f"worker {local_rank} of this pod has no GPU: the pod has"
            f" {torch.cuda.device_count()}, workersPerPod must not be more"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
