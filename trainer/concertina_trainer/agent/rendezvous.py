"""A torch elastic rendezvous that follows the membership and never decides itself.

Restart mode, for scripts that cannot rebuild their model in place, under stock torchrun:

    torchrun --nnodes=1:64 --rdzv-backend=concertina --rdzv-endpoint=<membership file> \\
        --rdzv-conf=pod=<name>,uid=<uid>[,join_timeout=600,read_timeout=60] train.py

A round that names this pod ends the barrier in the store that the round's leader serves; a newer
membership supersedes a round that has not formed. A worker that failed waits for the next round:
only the operator says who trains. Stock torchrun exits with 1 when its pod is dropped
(RendezvousGracefulExitError makes its launcher trip over a missing result), so the exit code of a
dropped pod says nothing.
"""

import logging
import os
import socket
import time
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

# torch.distributed re-exports these without declaring it to type checkers.
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousGracefulExitError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    RendezvousTimeoutError,
)

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import Member, Membership
from concertina_trainer.agent.membership import MembershipFile, MembershipSource

logger = logging.getLogger(__name__)

BACKEND = "concertina"
POLL_SECONDS = 0.05


class MembershipRendezvous(RendezvousHandler):
    """Forms exactly the rounds that the membership lists."""

    def __init__(
        self,
        source: MembershipSource,
        *,
        run_id: str,
        pod: str,
        uid: str,
        join_timeout: timedelta = timedelta(seconds=600),
        read_timeout: timedelta = timedelta(seconds=60),
    ) -> None:
        self._source = source
        self._run_id = run_id
        self._pod = pod
        self._uid = uid
        self._join_timeout = join_timeout
        self._read_timeout = read_timeout
        self._round: int | None = None
        self._servers: list[TCPStore] = []

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for a newer round that names this pod and in which all its members have come."""
        deadline = time.monotonic() + self._join_timeout.total_seconds()
        while time.monotonic() < deadline:
            if self.is_closed():
                raise RendezvousClosedError(f"the membership of {self._run_id} is gone")
            membership = self._newer()
            if membership is not None:
                rank = self._rank(membership)
                if rank is not None and (info := self._form(membership, rank, deadline)):
                    self._round = membership.round
                    return info
                if rank is None and self._round is not None:
                    raise RendezvousGracefulExitError(
                        f"pod {self._pod} is not in round {membership.round}"
                    )
            time.sleep(POLL_SECONDS)
        raise RendezvousTimeoutError(
            f"no round of {self._run_id} formed with pod {self._pod} (uid {self._uid})"
            f" within {self._join_timeout.total_seconds():.0f} s"
        )

    def num_nodes_waiting(self) -> int:
        """More than 0 when a newer round exists, or none will: torch restarts its workers."""
        membership = self._newer()
        if membership is not None:
            return max(1, len(membership.members))
        return int(self.is_closed())

    def is_closed(self) -> bool:
        """Whether the membership was deleted."""
        return self._source.gone()

    def set_closed(self) -> None:
        """Only the operator ends a job."""

    def shutdown(self) -> bool:
        """Stop the stores that this agent serves."""
        self._servers.clear()
        return True

    def get_backend(self) -> str:
        """Name under which torchrun finds this handler."""
        return BACKEND

    def get_run_id(self) -> str:
        """The --rdzv-id of torchrun."""
        return self._run_id

    @property
    def use_agent_store(self) -> bool:
        """Workers are clients of the round's store: MASTER_ADDR and MASTER_PORT point at it."""
        return True

    def _newer(self) -> Membership | None:
        latest = self._source.latest()
        if latest is None or (self._round is not None and latest.round <= self._round):
            return None
        return latest

    def _rank(self, membership: Membership) -> int | None:
        names = [(member.pod, member.uid) for member in membership.members]
        me = (self._pod, self._uid)
        return names.index(me) if me in names else None

    def _form(self, membership: Membership, rank: int, deadline: float) -> RendezvousInfo | None:
        """Meet the other members in the round's store; None when the attempt was given up."""
        leader = membership.members[0]
        size = len(membership.members)
        try:
            if rank == 0:
                self._serve(leader)
            elif not _answers(leader):
                return None
            client = TCPStore(
                leader.host,
                leader.port,
                is_master=False,
                wait_for_workers=False,
                timeout=self._read_timeout,
            )
            store = PrefixStore(f"{self._run_id}/{membership.round}/", client)
            store.set(f"here/{rank}", self._uid)
            while not store.check([f"here/{other}" for other in range(size)]):
                if self._superseded(membership) or time.monotonic() > deadline:
                    return None
                time.sleep(POLL_SECONDS)
        except dist.DistError as error:
            logger.warning(
                "round %d: the store at %s:%d fails, reading the membership again: %s",
                membership.round,
                leader.host,
                leader.port,
                str(error).partition("\n")[0],
            )
            return None
        logger.info("round %d: pod %s is %d of %d", membership.round, self._pod, rank, size)
        return RendezvousInfo(store, rank, size, RendezvousStoreInfo(leader.host, leader.port))

    def _serve(self, leader: Member) -> None:
        """Serve a fresh store at the leader's port: workers write to it without any prefix."""
        self._servers = [server for server in self._servers if server.port != leader.port][-1:]
        self._servers.append(
            TCPStore("localhost", leader.port, is_master=True, wait_for_workers=False)
        )

    def _superseded(self, membership: Membership) -> bool:
        latest = self._source.latest()
        return self.is_closed() or (latest is not None and latest.round > membership.round)


def _answers(leader: Member) -> bool:
    """Whether the leader's store is up; a TCPStore client would wait for it, blind to newer rounds."""
    try:
        socket.create_connection((leader.host, leader.port), timeout=1).close()
    except OSError:
        return False
    return True


def create_handler(parameters: RendezvousParameters) -> MembershipRendezvous:
    """The handler that torchrun's --rdzv-endpoint and --rdzv-conf describe.

    `pod` and `uid` default to CONCERTINA_POD and CONCERTINA_UID. Raises InvalidJob without them.
    """
    pod = parameters.get("pod") or os.environ.get("CONCERTINA_POD")
    uid = parameters.get("uid") or os.environ.get("CONCERTINA_UID")
    if not (pod and uid and parameters.endpoint):
        raise InvalidJob(
            f"rendezvous backend {BACKEND!r} needs --rdzv-endpoint=<membership file> and"
            f" --rdzv-conf=pod=<name>,uid=<uid>;"
            f" got endpoint {parameters.endpoint!r}, pod {pod!r}, uid {uid!r}"
        )
    return MembershipRendezvous(
        MembershipFile(Path(parameters.endpoint)),
        run_id=parameters.run_id,
        pod=str(pod),
        uid=str(uid),
        join_timeout=timedelta(seconds=parameters.get_as_int("join_timeout", 600) or 600),
        read_timeout=timedelta(seconds=parameters.get_as_int("read_timeout", 60) or 60),
    )
