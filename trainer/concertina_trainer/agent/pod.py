"""One pod as its agent sees it: what is done in every turn of the agent's loop.

A turn relays a newer membership to the workers, reads what they tell, keeps a fresh store, has
peers dialled and publishes the report and the metrics. Nothing of torch's elastic agent is in
here; LiveAgent calls `turn` ten times a second and asks `must_end` and `record_failure` what to do
with workers.
"""

import logging
import secrets
from datetime import UTC, datetime

from concertina_api.v1alpha1 import Failure, Membership, PodPhase, Report
from concertina_trainer.agent.failure import (
    End,
    Inquest,
    culprit,
    failure_of,
    may_restart,
)
from concertina_trainer.agent.leave import Leave
from concertina_trainer.agent.mailbox import (
    Inbox,
    Notice,
    WorkerStatus,
    put,
    samples_file,
    worker_file,
)
from concertina_trainer.agent.membership import MembershipSource
from concertina_trainer.agent.metrics import Tally
from concertina_trainer.agent.publisher import Publisher
from concertina_trainer.agent.pulse import Pulses, heartbeat_file
from concertina_trainer.agent.reach import Reach
from concertina_trainer.agent.report import AgentFacts, compose
from concertina_trainer.agent.settings import Settings
from concertina_trainer.agent.stores import RoundStores

logger = logging.getLogger(__name__)

READY = (PodPhase.WARM, PodPhase.TRAINING, PodPhase.WAITING)
"""Phases of a pod whose workers have warmed up and run."""


class Pod:
    """State of the agent between two turns."""

    def __init__(
        self,
        settings: Settings,
        *,
        source: MembershipSource,
        stores: RoundStores,
        publisher: Publisher,
        tally: Tally,
        leave: Leave,
        reach: Reach | None = None,
    ) -> None:
        self._settings = settings
        self._source = source
        self._stores = stores
        self._publisher = publisher
        self._tally = tally
        self._leave = leave
        self._reach = reach or Reach()
        self._inquest = Inquest(settings)
        self.incarnation = ""
        self._num_workers = settings.job.spec.pods.workers_per_pod
        self._inboxes: list[Inbox[WorkerStatus]] = []
        self._statuses: tuple[WorkerStatus, ...] = ()
        self._pulses = Pulses(settings.mailbox)
        self._relayed: Membership | None = None
        self._noticed: float | None = None
        self._trouble = ""
        self._failure: Failure | None = None
        self._failed_steps: list[int] = []
        self._step = 0
        self._starts = 0
        self._given_up = False

    def begin(self) -> None:
        """Draw a new incarnation for workers that are about to start, and clear their traces."""
        self.incarnation = secrets.token_hex(4)
        self._starts += 1
        self._statuses = ()
        self._pulses = Pulses(self._settings.mailbox)
        mailbox = self._settings.mailbox
        mailbox.mkdir(parents=True, exist_ok=True)
        stale = [
            file(mailbox, local_rank)
            for local_rank in range(self._num_workers)
            for file in (worker_file, samples_file, heartbeat_file)
        ]
        self._inquest.begin()
        if self._starts == 1:  # a pod of the same name may have used the folder before
            stale += [mailbox / "membership.json", mailbox / "notice.json"]
        for path in stale:
            path.unlink(missing_ok=True)
        self._inboxes = [
            Inbox(worker_file(mailbox, local_rank), WorkerStatus)
            for local_rank in range(self._num_workers)
        ]
        logger.info("workers start as %s.%s", self._settings.uid, self.incarnation)

    def turn(self, *, now: float) -> None:
        """Do all that a turn of the agent's loop wants; `now` in monotonic seconds."""
        try:
            self._relay()
            self._give_notice()
        except OSError as error:
            if str(error) != self._trouble:
                logger.warning("cannot write to the workers, trying again: %s", error)
                self._trouble = str(error)
        self._read_statuses()
        self._pulses.feel(self._statuses, now=now)
        self._given_up |= self._pulses.hopeless
        self._keep_stores()
        report = self._report()
        self._reach.look(self._relayed, uid=self._settings.uid, phase=report.phase, now=now)
        self._tally.update(
            self._statuses, restarts=max(0, self._starts - 1), is_ready=report.phase in READY
        )
        self._publisher.publish(report, now=now)

    def must_end(self, *, now: float) -> bool:
        """Whether the workers are killed now, whatever they do."""
        if self._source.gone():
            logger.error("the membership is gone: ending now")
        elif self._leave.at_once:
            logger.error("told to end a second time: ending now")
        elif self.leaves_nothing:
            logger.info("told to end before the workers were warm: ending now")
        elif self._leave.deadline is not None and now >= self._leave.deadline:
            logger.error("the workers did not leave within the grace period: killing them")
        else:
            return False
        self._given_up = True
        return True

    @property
    def silent(self) -> tuple[int, ...]:
        """Local ranks of workers that are to be killed because they give no sign of life."""
        return tuple(self._pulses.silent)

    @property
    def round(self) -> int:
        """Of the newest membership that the workers were told; 0 before the first."""
        return 0 if self._relayed is None else self._relayed.round

    @property
    def leaves_nothing(self) -> bool:
        """Whether the pod was told to end before its workers were warm: no round waits for it."""
        return self._leave.deadline is not None and not self._is_warm()

    def record_failure(self, ends: tuple[End, ...]) -> None:
        """Note why workers ended by themselves, and decide whether they are started again."""
        if self._given_up:  # they were killed on purpose
            return
        self._read_statuses()
        self._failure = failure_of(
            ends,
            statuses={status.local_rank: status for status in self._statuses},
            incarnation=self.incarnation,
            evidence=self._inquest.evidence(self.incarnation, culprit(ends).local_rank),
        )
        self._failure = self._pulses.explained(self._failure, culprit(ends).local_rank)
        restart = may_restart(self._failed_steps, step=self._step)
        self._failed_steps.append(self._step)
        if self._failure.permanent or self._leave.deadline is not None or not restart:
            self._given_up = True
        logger.error(
            "worker failed in round %d at step %d, %s: %s",
            self._failure.round,
            self._step,
            "giving up" if self._given_up else "starting the workers again",
            self._failure.message,
        )

    @property
    def given_up(self) -> bool:
        """Whether workers that ended badly are not started again."""
        return self._given_up

    def close(self, *, now: float) -> None:
        """Send the last report."""
        self._read_statuses()
        self._publisher.flush(self._report(), now=now)
        self._reach.close()

    def _relay(self) -> None:
        membership = self._source.latest()
        if membership is not None and membership != self._relayed:
            put(self._settings.mailbox / "membership.json", membership)
            self._relayed = membership
            logger.info(
                "round %d: %d member(s), %d leaving, %d lost, intent %s",
                membership.round,
                len(membership.members),
                len(membership.leaving),
                len(membership.lost),
                membership.intent,
            )

    def _give_notice(self) -> None:
        for member in self._relayed.leaving if self._relayed is not None else ():
            if member.uid == self._settings.uid and member.grace_seconds is not None:
                self._leave.shorten(member.grace_seconds)
        deadline = self._leave.deadline
        if deadline is not None and deadline != self._noticed:
            put(self._settings.mailbox / "notice.json", Notice(deadline=deadline))
            self._noticed = deadline
            seconds = self._leave.grace_seconds
            logger.info("told to end: waiting for the workers to leave within %.0f s", seconds)

    def _read_statuses(self) -> None:
        """Statuses of the workers that run now; a file may be left from before."""
        statuses = [status for inbox in self._inboxes if (status := inbox.read())]
        self._statuses = tuple(
            status for status in statuses if status.incarnation == self.incarnation
        )
        steps = [status.progress.step for status in self._statuses if status.progress]
        self._step = max([self._step, *steps])

    def _is_warm(self) -> bool:
        return len(self._statuses) == self._num_workers and all(
            status.phase is not PodPhase.STARTING for status in self._statuses
        )

    def _keep_stores(self) -> None:
        if self._is_warm():
            self._stores.open()
        if self._relayed is not None and self._relayed.members:
            leader = self._relayed.members[0]
            if leader.uid == self._settings.uid:
                self._stores.serve(self._relayed.round, port=leader.port)
        self._stores.retire(max((status.round for status in self._statuses), default=0))

    def _report(self) -> Report:
        return compose(
            self._statuses,
            AgentFacts(
                pod=self._settings.pod,
                uid=self._settings.uid,
                incarnation=self.incarnation,
                host=self._settings.host,
                port=self._stores.port,
                workers=self._num_workers,
                membership=self._relayed,
                leaving=self._leave.deadline is not None,
                suspects=self._reach.suspects,
                failure=self._failure,
                given_up=self._given_up and not self.leaves_nothing,
            ),
            now=datetime.now(UTC),
        )
