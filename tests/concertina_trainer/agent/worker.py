"""A worker without a model: speaks the mailbox protocol and does what a test orders.

    worker.py [gloo] [cold]

Orders are files `order-<local rank>` in the mailbox: `exit <code>`, `die <signal>`, `fail`
(report the failure, then exit 1), `stubborn` (do not leave when told), `step <n>`, `write <text>`.
With `gloo` every round opens a process group from the membership and sums ones over it; a `cold`
worker never gets warm.
"""

import os
import signal
import sys
import time
from pathlib import Path

from concertina_api.v1alpha1 import (
    Failure,
    FailureCause,
    Intent,
    Member,
    Membership,
    PodPhase,
    Progress,
    Resize,
    workers_of,
)
from concertina_trainer.agent.mailbox import (
    WorkerStatus,
    membership_inbox,
    notice_inbox,
    put,
    worker_file,
)
from concertina_trainer.agent.parent import die_with_parent


class Worker:
    def __init__(self, *, gloo: bool) -> None:
        self.mailbox = Path(os.environ["CONCERTINA_MAILBOX"])
        self.local_rank = int(os.environ["LOCAL_RANK"])
        incarnation = os.environ["CONCERTINA_INCARNATION"]
        self.me = f"{os.environ['CONCERTINA_UID']}.{incarnation}/{self.local_rank}"
        self.status = WorkerStatus(
            incarnation=incarnation, local_rank=self.local_rank, pid=os.getpid()
        )
        self.memberships = membership_inbox(self.mailbox)
        self.notices = notice_inbox(self.mailbox)
        self.stubborn = False
        self.gloo = gloo

    def run(self) -> None:
        if self.gloo:
            import torch.distributed  # noqa: F401 - part of the warm-up
        self.tell(phase=PodPhase.WARM)
        while True:
            self.obey()
            membership = self.memberships.read()
            if membership and membership.round > self.status.round:
                self.enter(membership)
            if self.notices.read() and self.status.round == 0 and not self.stubborn:
                self.leave()
            time.sleep(0.02)

    def enter(self, membership: Membership) -> None:
        if self.me in membership.workers():
            rank = membership.workers().index(self.me)
            before = self.status.progress.world_size if self.status.progress else 0
            reached = sum_of_ones(membership, rank) if self.gloo else 0
            number, size = membership.round, membership.world_size
            self.tell(
                phase=PodPhase.TRAINING,
                round=number,
                rank=rank,
                progress=Progress(step=number, samples=reached, world_size=size, round=number),
                acknowledged=Resize(
                    round=number,
                    world_size_before=before,
                    world_size=size,
                    step=number,
                    pause_seconds=0.5,
                ),
            )
        elif self.me in workers_of(membership.leaving) or membership.intent is not Intent.RUN:
            self.leave()
        elif self.status.round:
            self.tell(phase=PodPhase.WAITING, round=membership.round)

    def leave(self) -> None:
        self.tell(phase=PodPhase.LEFT, rank=-1)
        raise SystemExit(0)

    def obey(self) -> None:
        order = self.mailbox / f"order-{self.local_rank}"
        if not order.exists():
            return
        match order.read_text().split(maxsplit=1):
            case ["exit", code]:
                order.unlink()
                print(f"about to exit with {code}", file=sys.stderr)
                os._exit(int(code))
            case ["die", name]:
                order.unlink()
                os.kill(os.getpid(), signal.Signals[name])
            case ["fail"]:
                order.unlink()
                failure = Failure(
                    round=self.status.round,
                    incarnation=self.status.incarnation,
                    cause=FailureCause.NON_FINITE,
                    message="5 steps in a row",
                )
                self.tell(phase=PodPhase.FAILED, failure=failure)
                os._exit(1)
            case ["step", number]:
                progress = Progress(step=int(number), samples=8 * int(number))
                self.tell(progress=progress, samples_trained=progress.samples)
                order.unlink()
            case ["stubborn"]:
                self.stubborn = True
                order.unlink()

    def tell(self, **changes: object) -> None:
        self.status = self.status.model_copy(update=changes)
        put(worker_file(self.mailbox, self.local_rank), self.status)


def sum_of_ones(membership: Membership, rank: int) -> int:
    """What all workers of the round together hold, over the store that the leader's agent serves."""
    import torch
    import torch.distributed as dist

    leader: Member = membership.members[0]
    if dist.is_initialized():
        dist.destroy_process_group()
    store = dist.TCPStore(leader.host, leader.port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=membership.world_size)
    ones = torch.ones(1)
    dist.all_reduce(ones)
    return int(ones.item())


if __name__ == "__main__":
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a worker that hangs in a library would
    if "cold" in sys.argv[1:]:
        signal.pause()
    Worker(gloo="gloo" in sys.argv[1:]).run()
