"""A small imagined cluster: pods, agents and time, all moved by the test.

It does what a plan says, lets trainers act on the newest membership, and checks after every plan
what must never happen. Agents behave as the contract says: warm up, wait to be named, greet
everyone in a round before it commits, hand over, echo probes, exit.
"""

import math
from dataclasses import dataclass, field

from concertina_api.v1alpha1 import (
    AdaptiveTrainingJob,
    ConditionType,
    Intent,
    Membership,
    PodPhase,
    Report,
)
from concertina_operator.actions import CreatePod, DeletePod, Plan, PublishMembership
from concertina_operator.conditions import holds
from concertina_operator.observed import Observed, Phase, PodFacts
from concertina_operator.plan import plan
from concertina_operator.sizing import is_allowed
from tests.concertina_operator.factories import a_job, a_spec, at


@dataclass(kw_only=True)
class FakePod:
    """A pod with its agent and workers."""

    name: str
    uid: str
    created: float
    phase: PodPhase | None = None
    """None while it is pending: it has written no report."""
    starts: int = 0
    """How often its workers were started."""
    round: int = 0
    deleting: bool = False
    leaving: bool = False
    doomed: bool = False
    """It is deleted and nothing in it can object."""
    silent: bool = False
    exit_code: int | None = None
    notice: str = ""
    """Who says that it is about to be told to end."""
    node: str = ""
    rejected: str = ""
    """Why its node would not have it."""
    workers: int = 1
    host: str = "127.0.0.1"
    probe: int = 0
    suspects: tuple[str, ...] = ()
    failure: dict | None = None
    acknowledged: dict | None = None
    request: dict | None = None
    progress: dict | None = None
    finished: bool = False

    @property
    def key(self) -> str:
        return f"{self.uid}.i{self.starts}"

    @property
    def runs(self) -> bool:
        return self.exit_code is None and not self.rejected

    def facts(self) -> PodFacts:
        phase = Phase.PENDING if self.phase is None else Phase.RUNNING
        if not self.runs:
            phase = Phase.FAILED if self.exit_code or self.rejected else Phase.SUCCEEDED
        return PodFacts(
            name=self.name,
            uid=self.uid,
            created=at(self.created),
            phase=phase,
            placed=self.phase is not None,
            node=self.node,
            deleting=self.deleting,
            notice=self.notice,
            exit_code=self.exit_code,
            ending=self.rejected,
        )

    def report(self) -> Report | None:
        if self.phase is None:
            return None
        return Report.model_validate(
            {
                "pod": self.name,
                "uid": self.uid,
                "incarnation": f"i{self.starts}",
                "phase": self.phase,
                "host": self.host,
                "port": 4000 + self.round,
                "workers": self.workers,
                "round": self.round,
                "leaving": self.leaving,
                "suspects": self.suspects,
                "probe": self.probe,
                "failure": self.failure,
                "acknowledged": self.acknowledged,
                "request": self.request,
                "progress": self.progress,
                "finished": self.finished,
            }
        )


@dataclass(kw_only=True)
class FakeCluster:
    """The world of one job."""

    job: AdaptiveTrainingJob = field(default_factory=a_job)
    granted: int | None = None
    membership_taken: bool = False
    template_fault: str = ""
    capacity: int = 100
    """Pods that find a place; the others stay pending."""
    does_steps: bool = True
    """Whether rounds that are acknowledged also train."""
    now: float = 0.0
    pods: dict[str, FakePod] = field(default_factory=dict)
    membership: Membership | None = None
    committed: int = 0
    effective: int = 32
    sequence: int = 0
    step: int = 0
    born: int = 0
    last: Plan | None = None
    history: list[Membership] = field(default_factory=list)

    def observed(self) -> Observed:
        reports = {pod.name: pod.report() for pod in self.pods.values()}
        return Observed(
            job=self.job,
            membership=self.membership,
            reports={name: report for name, report in reports.items() if report is not None},
            granted=self.granted,
            pods=tuple(pod.facts() for pod in self.pods.values()),
            membership_taken=self.membership_taken,
            template_fault=self.template_fault,
        )

    def set_spec(self, **fields) -> None:
        spec = a_spec(**fields) if "suspend" not in fields else None
        spec = spec or self.job.spec.model_copy(update=fields)
        self.job = self.job.model_copy(update={"spec": spec})

    # The operator's side.

    def reconcile(self) -> Plan:
        """Plan, check the invariants, store the status, do the actions."""
        observed = self.observed()
        made = plan(observed, at(self.now))
        assert made == plan(observed, at(self.now)), "the same input gave another plan"
        self._check(made)
        self.job = self.job.model_copy(update={"status": made.status})
        for action in made.actions:
            match action:
                case PublishMembership():
                    self.membership = action.membership
                    self.history.append(action.membership)
                case DeletePod():
                    self._delete(action)
                case CreatePod():
                    assert action.name not in self.pods
                    self.born += 1
                    self.pods[action.name] = FakePod(
                        name=action.name,
                        uid=f"u{self.born}",
                        created=self.now,
                        workers=self.job.spec.pods.workers_per_pod,
                    )
        again = plan(self.observed(), at(self.now))
        assert again.actions == (), f"{made.reason} was followed by {again.actions}"
        self.last = made
        return made

    def _delete(self, action: DeletePod) -> None:
        pod = self.pods[action.name]
        assert pod.uid == action.uid
        pod.deleting = True
        pod.doomed = not pod.runs or action.grace_seconds == 0 or pod.phase is None

    def _check(self, made: Plan) -> None:
        spec, before = self.job.spec, self.job.status
        ceiling = spec.pods.max if self.granted is None else min(spec.pods.max, self.granted)
        assert made.status.round >= before.round
        assert made.status.pods.wanted <= max(ceiling, 0)
        created = [action for action in made.actions if isinstance(action, CreatePod)]
        deleted = {action.uid for action in made.actions if isinstance(action, DeletePod)}
        if created:
            held = [
                pod
                for pod in self.pods.values()
                if pod.runs and not pod.deleting and pod.uid not in deleted
            ]
            assert len(held) + len(created) <= ceiling
        for action in made.actions:
            if isinstance(action, PublishMembership):
                self._check_membership(action.membership, spec=spec, made=made)

    def _check_membership(self, new: Membership, *, spec, made: Plan) -> None:
        old = self.membership
        size = len(new.members)
        if old is None:
            assert size == 0 or is_allowed(spec.pods, size=size)
            return
        if new.round == old.round:
            assert new.probe > old.probe
            same = {"probe": new.probe, "request_sequence": new.request_sequence}
            assert new == old.model_copy(update=same)
            return
        assert new.round > old.round
        before = {member.key for member in old.members}
        named = {member.key for member in (*new.members, *new.leaving, *new.lost)}
        assert before <= named, "a member vanished without being listed"
        joined = {member.key for member in new.members} - before
        assert size <= made.status.pods.wanted or not joined
        assert size == 0 or is_allowed(spec.pods, size=size) or not joined
        assert not joined & {member.key for member in new.lost}
        order = [member.key for member in new.members if member.key in before]
        assert order == [member.key for member in old.members if member.key in set(order)]
        assert [member.key for member in new.members][: len(order)] == order, "old members first"

    # The trainers' side.

    def act(self) -> None:
        """Everything that agents and workers do without time passing."""
        for pod in list(self.pods.values()):
            if pod.doomed or (pod.deleting and (pod.silent or not pod.runs)):
                del self.pods[pod.name]
            else:
                self._start(pod)
        for pod in list(self.pods.values()):
            if pod.runs and not pod.silent and pod.phase is not None:
                self._obey(pod)
        self._commit()
        self._break()
        self._train()

    def _start(self, pod: FakePod) -> None:
        if not pod.runs or pod.silent:
            return
        if pod.phase is None:
            placed = [other for other in self.pods.values() if other.phase is not None]
            if len([other for other in placed if other.runs]) < self.capacity:
                pod.phase = PodPhase.STARTING
        elif pod.phase is PodPhase.STARTING:
            pod.phase = PodPhase.WARM

    def _obey(self, pod: FakePod) -> None:
        newest = self.membership
        if newest is None:
            if pod.deleting or pod.round:  # a membership that is gone means: exit now
                pod.exit_code = 143
            return
        members = {member.key for member in newest.members}
        leaving = {member.key for member in newest.leaving}
        if pod.key in members | leaving:
            pod.probe = newest.probe
            if not members:
                pod.phase, pod.exit_code = PodPhase.LEFT, 0
        elif newest.intent is not Intent.RUN or pod.deleting or pod.leaving:
            pod.exit_code = 143
        elif pod.round:  # it was a member, and the newest round does not name it
            pod.exit_code = 1 if pod.key in {m.key for m in newest.lost} else 0

    def participants(self) -> list[FakePod | None]:
        newest = self.membership
        if newest is None or not newest.members:
            return []
        by_key = {pod.key: pod for pod in self.pods.values()}
        return [by_key.get(member.key) for member in (*newest.members, *newest.leaving)]

    def _commit(self) -> None:
        newest, present = self.membership, self.participants()
        if not present or newest is None or self.committed >= newest.round:
            return
        if any(pod is None or not pod.runs or pod.silent or pod.phase is None for pod in present):
            return
        found = [pod for pod in present if pod is not None]
        before = sum(pod.round > 0 for pod in found)
        members, leavers = found[: len(newest.members)], found[len(newest.members) :]
        self.committed = newest.round
        self.sequence = max(self.sequence, newest.request_sequence)
        for pod in members:
            pod.phase, pod.round, pod.suspects = PodPhase.TRAINING, newest.round, ()
            pod.acknowledged = pod.progress = None
        for pod in leavers:
            pod.phase, pod.exit_code = PodPhase.LEFT, 0
        members[0].acknowledged = {
            "round": newest.round,
            "worldSizeBefore": before,
            "worldSize": len(members),
            "step": self.step,
            "pauseSeconds": 0.3,
        }

    def _break(self) -> None:
        newest, present = self.membership, self.participants()
        if newest is None or self.committed != newest.round:
            return
        members = present[: len(newest.members)]
        bad = {
            member.pod
            for member, pod in zip(newest.members, members, strict=True)
            if pod is None or not pod.runs or pod.silent
        }
        if not bad:
            return
        for pod in members:
            if pod is not None and pod.runs and not pod.silent:
                pod.phase, pod.suspects = PodPhase.WAITING, tuple(sorted(bad))

    def _train(self) -> None:
        newest, present = self.membership, self.participants()
        if newest is None or not present or self.committed != newest.round or not self.does_steps:
            return
        members = present[: len(newest.members)]
        if any(pod is None or pod.phase is not PodPhase.TRAINING for pod in members):
            return
        self.step += 1
        leader = members[0]
        assert leader is not None
        leader.progress = {"step": self.step, "samples": self.step * 32, "round": newest.round}
        leader.request = {
            "sequence": self.sequence,
            "requested": self.effective,
            "effective": self.effective,
            "reason": "the rule says so",
        }

    # What happens to it.

    def ask(self, effective: int) -> None:
        """Every decision at most doubles the batch."""
        self.sequence += max(1, math.ceil(math.log2(effective / self.effective)))
        self.effective = effective

    def restart_workers(
        self,
        pod: FakePod,
        *,
        message: str | None = None,
        cause: str = "Exception",
        first_sample: int | None = None,
    ) -> None:
        """The agent starts its workers anew, after a failure that it reports."""
        if message is not None:
            pod.failure = {
                "round": pod.round,
                "incarnation": f"i{pod.starts}",
                "cause": cause,
                "message": message,
                "first_sample": first_sample,
                "num_samples": 0 if first_sample is None else 8,
            }
        pod.starts += 1
        pod.phase, pod.round, pod.suspects = PodPhase.STARTING, 0, ()
        pod.acknowledged = pod.progress = pod.request = None

    def kill(self, pod: FakePod, *, code: int = 137) -> None:
        pod.exit_code = code

    def finish(self, *, leader_only: bool = False) -> None:
        for pod in self.participants()[: 1 if leader_only else None]:
            if pod is not None and pod.runs:
                pod.phase, pod.finished, pod.exit_code = PodPhase.FINISHED, True, 0

    def settle(self, *, turns: int = 40) -> None:
        """Plans and trainers in turn, without time passing, until neither has anything to do."""
        for _ in range(turns):
            before = self._snapshot()
            self.act()
            made = self.reconcile()
            if not made.actions and self._snapshot() == before:
                return
        raise AssertionError(f"no rest: {self.last.reason if self.last else ''}")

    def pass_time(self, *, horizon: float = 7200.0) -> None:
        """Let time pass, from one moment at which the plan wants to look again to the next."""
        end = self.now + horizon
        for _ in range(400):
            self.settle()
            assert self.last is not None
            wait = self.last.requeue_after
            if wait is None or self.now + wait.total_seconds() > end:
                return
            self.now += wait.total_seconds()
        raise AssertionError(f"always something to do: {self.last.reason if self.last else ''}")

    def _snapshot(self) -> object:
        pods = [
            (pod.name, pod.uid, pod.phase, pod.exit_code, pod.deleting)
            for pod in self.pods.values()
        ]
        return self.membership, self.committed, pods, self.job.status.pods.wanted

    @property
    def trains(self) -> bool:
        newest, present = self.membership, self.participants()
        if newest is None or not present or self.committed != newest.round:
            return False
        return all(
            pod is not None and pod.phase is PodPhase.TRAINING and pod.runs
            for pod in present[: len(newest.members)]
        )

    @property
    def over(self) -> bool:
        status = self.job.status
        return holds(status, ConditionType.COMPLETED) or holds(status, ConditionType.FAILED)

    @property
    def members(self) -> list[str]:
        return [member.pod for member in self.membership.members] if self.membership else []
