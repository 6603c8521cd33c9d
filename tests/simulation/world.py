"""One schedule: a job on a cluster in which things go wrong, from its seed to its end.

`run_schedule(seed)` draws the job and the faults, lets virtual time pass, and judges: promises are
checked as things happen, and in the end the job must be completed and the cluster at rest.
"""

import traceback
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from concertina_api.v1alpha1 import (
    AdaptiveTrainingJob,
    ConditionType,
    workers_of,
)
from concertina_operator.conditions import holds
from concertina_operator.observed import Observed, PodFacts
from concertina_operator.plan import plan
from concertina_trainer.loop.pacing import Pacing
from concertina_trainer.schedule.controller import BatchController, BatchState
from tests.concertina_operator.factories import at
from tests.simulation import seams
from tests.simulation.api_server import ApiServer
from tests.simulation.faults import Faults
from tests.simulation.history import Counts, Judge, Snapshot, State, Violation
from tests.simulation.keeper import Live
from tests.simulation.kernel import Kernel
from tests.simulation.network import Group, Network
from tests.simulation.operators import Lease, Operator
from tests.simulation.pods import Pod
from tests.simulation.worker import Worker

PATIENCE_SECONDS = 3600.0
"""A job that is left alone is completed after so long, or is stuck."""
MICRO_BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a schedule ended."""

    seed: int
    violation: str = ""
    """Empty when all promises were kept."""
    events: int = 0
    seconds: float = 0.0
    counts: Counts = field(default_factory=Counts)
    trace: tuple[str, ...] = ()


@dataclass(slots=True)
class Storage:
    """Where checkpoints are."""

    parts: dict[tuple[State, int, int], dict[int, None]] = field(default_factory=dict)
    latest: State | None = None
    round: int = 0
    """In which `latest` was trained."""


@torch.no_grad()  # its coroutines share one thread, and leave the mode as the last one had it
def run_schedule(seed: int, *, traced: bool = False, faults: tuple[str, ...] = ()) -> Outcome:
    """Run the schedule of a seed to its end; with `faults`, of these kinds alone."""
    world = World(seed, faults=faults)
    if traced:
        world.kernel.trace = []
    violation = ""
    try:
        with seams.installed(world):
            world.run()
    except Violation as error:
        violation = str(error)
    except Exception as error:  # noqa: BLE001 - whatever the product raises is a finding
        violation = f"{error!r}\n{''.join(traceback.format_exception(error)[-6:])}"
    finally:
        world.kernel.bury()
    return Outcome(
        seed=seed,
        violation=violation,
        events=world.kernel.num_events,
        seconds=world.kernel.now,
        counts=world.judge.counts,
        trace=tuple(world.kernel.trace or ()),
    )


class World:
    """Everything there is in one schedule."""

    def __init__(self, seed: int, *, faults: tuple[str, ...] = ()) -> None:
        self.kernel = kernel = Kernel(seed)
        random = kernel.random
        self.judge = Judge()
        self.network = Network(kernel)
        self.storage = Storage()
        self.groups: dict[Any, Group] = {}
        self.pods: list[Pod] = []
        self.by_uid: dict[str, Pod] = {}
        self.workers: dict[str, Worker] = {}
        self.bad_ends = 0
        self.sources: dict[int, str] = {}
        """Where each round took its state from."""
        self.complete_steps: dict[int, int] = {}
        """Newest snapshot that all workers of a round were told to be complete, by round."""
        self.step_seconds = random.choice([0.3, 1.0, 4.0, 12.0])
        self.beats = random.choice([1, 1, 2, 4])
        self.checkpoint_seconds = self.step_seconds * random.choice([5, 15, 1000])
        self.total = 0
        self.job = self._drawn_job()
        self.pacing = Pacing(self.job.spec, None, total_samples=self.total)
        controller = BatchController.of(
            self.job.spec.batch, total_samples=self.total, warmup_samples=0
        )
        self.initial = State(
            number=0, step=0, samples=0, first_sample=0, batch=controller.start(), parent=None
        )
        self._num_states = 0
        self._following: dict[tuple[int, int], State] = {}
        self._finished: dict[State, int] = {}
        self.api = ApiServer(kernel, self.judge, self.job)
        self.api.kubelet_create = self._pod_created
        self.api.kubelet_delete = self._pod_deleted
        self.faults = Faults(self, seed=seed, only=faults)

    # The course of a schedule.

    def run(self) -> None:
        """Until the job is completed and nothing is left; raises Violation."""
        lease = Lease()
        self.operators = [
            Operator(self.kernel, self.network, self.api, self.judge, lease, name)
            for name in ("a", "b")
        ]
        self.faults.begin()
        self.kernel.run(until=self.faults.end, stop=self._is_over)
        self.faults.stop()
        self.kernel.run(until=self.kernel.now + PATIENCE_SECONDS, stop=self._is_over)
        status = self.api.job.status
        self.judge.check(
            holds(status, ConditionType.COMPLETED),
            f"stuck: {status.state}, round {status.round}, last step at"
            f" {self.judge.last_step_at:.0f} s, faults ended at {self.faults.end:.0f} s",
        )
        self.judge.completed(total=self.total, saved=self.storage.latest)
        self._check_batch()
        self.kernel.run(until=self.kernel.now + 900.0, stop=self._is_empty)
        self._check_rest()

    def _is_over(self) -> bool:
        status = self.api.job.status
        return holds(status, ConditionType.COMPLETED) or holds(status, ConditionType.FAILED)

    def _is_empty(self) -> bool:
        return not any(pod.runs for pod in self.pods)

    def _check_rest(self) -> None:
        running = [pod.name for pod in self.pods if pod.runs]
        self.judge.check(not running, f"still running after the end: {', '.join(running)}")
        self.kernel.run(until=self.kernel.now + 30.0, stop=lambda: False)
        observed = Observed(
            job=self.api.job,
            membership=self.api.membership,
            reports={name: one.value for name, one in self.api.objects["report"].items()},
            pods=tuple(self.api.pods()),
        )
        made = plan(observed, at(self.kernel.now))
        self.judge.check(not made.actions, f"not at rest: {made.actions}")
        total = self.api.job.status.failures.total
        self.judge.check(
            total <= self.bad_ends, f"{total} failures are counted, {self.bad_ends} were seen"
        )

    def _check_batch(self) -> None:
        """What the trainers ask for is what the operator knows, unless they asked just now.

        Who asked and has ended while the API was away could not tell; whoever starts asks again.
        """
        if self._is_empty():
            return
        head, status = self.judge.head, self.api.job.status
        assert head is not None
        if self.kernel.now - self.asked_at > 120.0:
            told, asked = status.batch, head.batch
            self.judge.check(
                told.effective == asked.batch,
                f"the operator knows request {told.sequence} of {told.effective} samples,"
                f" the trainers ask for {asked.batch} by {asked.sequence}",
            )

    # What workers do.

    asked_at = 0.0

    def next_state(self, live: Live, controller: BatchState) -> State:
        """The state after the next step of a round: the same for all its workers."""
        before, group = live.state, live.groups.control
        key = (id(group), before.step + 1)
        following = self._following.get(key)
        if following is None:
            self._num_states += 1
            samples = before.samples + min(controller.batch, self.total - before.samples)
            following = State(
                number=self._num_states,
                step=before.step + 1,
                samples=samples,
                first_sample=before.samples,
                batch=self._decided(controller, samples),
                parent=before,
            )
            self._following[key] = following
        return following

    def stepped(self, live: Live, worker: Worker) -> None:
        """A worker has done a step; a round has when all its workers have."""
        state = live.state
        self.judge.changes(state, number=live.round, worker=worker.key)
        self._finished[state] = done = self._finished.get(state, 0) + 1
        if done == live.groups.world_size:
            self.judge.stepped(state, number=live.round, now=self.kernel.now)
            self.kernel.say(f"round {live.round} has done {state!r}")

    def commits(self, live: Live, worker: Worker) -> None:
        """A worker has learnt that the round is committed."""
        number = live.round
        if number <= self.judge.committed:
            self.judge.learns(number, worker=worker.key)
            return
        membership = self.api.published[number]
        members = membership.workers()
        for key in members:
            other = self.workers.get(key)
            prepared = other.keeper.prepared if other is not None else None
            self.judge.check(
                prepared is not None and prepared.round == number,
                f"round {number} commits though {key} has built nothing",
            )
        state, source = live.state, self.sources.get(number, "memory")
        self.judge.commits(
            state,
            number=number,
            source=source,
            members=members,
            participants=(*members, *workers_of(membership.leaving)),
            snapshots=self._snapshots_of(members),
        )
        self.kernel.say(f"round {number} is committed: {state!r} from {source}")

    def _snapshots_of(self, members: tuple[str, ...]) -> list[Snapshot]:
        """What these workers hold whole between them, newest first."""
        found: dict[tuple[int, int, int], tuple[State, dict[int, list[str]]]] = {}
        for key in members:
            for part, _ in self.workers[key].keeper.snapshots.offers():
                which = part.step, part.round, part.world_size
                _, holders = found.setdefault(which, (part.tensors["state"], {}))
                holders.setdefault(part.rank, []).append(key)
        return [
            Snapshot(state=state, holders=tuple(tuple(held[rank]) for rank in range(size)))
            for (_, _, size), (state, held) in sorted(found.items(), reverse=True)
            if len(held) == size
        ]

    def snapshot_is_complete(self, live: Live, step: int) -> None:
        """A beat says that all workers of the round hold both parts of a snapshot."""
        if self.complete_steps.get(live.round, -1) >= step or live.round != self.judge.committed:
            return
        self.complete_steps[live.round] = step
        state = next(one for one in live.state.chain() if one.step == step)
        keys = self.api.published[live.round].workers()
        size = self.job.spec.pods.workers_per_pod
        holders = tuple((key, keys[(rank + size) % len(keys)]) for rank, key in enumerate(keys))
        self.judge.complete(state, holders=holders)
        self.kernel.say(f"round {live.round}: the snapshot of {state!r} is complete")

    def publishes(self, state: State, worker: Worker, *, round_: int) -> None:
        """A leader moves `latest`."""
        mail = worker.agent.mail
        named = mail is not None and worker.key in {
            *mail.workers(),
            *workers_of(mail.leaving),
        }
        self.judge.check(
            named, f"{worker.name} moves latest, though its newest round is without it"
        )
        self.judge.counts.checkpoints += 1
        self.storage.latest, self.storage.round = state, round_
        self.kernel.say(f"latest is {state!r}, says {worker.name}")

    # What the cluster does.

    def _pod_created(self, facts: PodFacts) -> None:
        pod = Pod(self, facts)
        self.pods.append(pod)
        self.by_uid[facts.uid] = pod
        self.kernel.after(self.kernel.some(0.05, 4.0), pod.start)

    def _pod_deleted(self, facts: PodFacts) -> None:
        self.by_uid[facts.uid].delete(facts)

    # The job.

    def _drawn_job(self) -> AdaptiveTrainingJob:
        random = self.kernel.random
        largest = random.choice([2, 3, 4, 4, 5])
        steps = random.randint(12, 40)
        self._growth = sorted(random.randint(1, steps) * 32 for _ in range(random.randint(0, 3)))
        self.total = steps * 32
        document = {
            "metadata": {"name": "job", "uid": "job-uid", "generation": 1},
            "spec": {
                "model": "package.module:task",
                "samples": self.total,
                "batch": {
                    "microBatchSize": MICRO_BATCH,
                    "initial": random.choice([16, 32]),
                    "max": 256,
                    "maxAccumulation": random.choice([1, 2, 4]),
                },
                "pods": {
                    "min": random.choice([1, 1, min(2, largest)]),
                    "max": largest,
                    "workersPerPod": random.choice([1, 1, 1, 2]),
                },
                "scaling": {
                    "scaleUpCooldownSeconds": random.choice([0, 10]),
                    "scaleDownCooldownSeconds": random.choice([0, 30]),
                    "readyDeadlineSeconds": random.choice([60, 600]),
                    "leaveDeadlineSeconds": random.choice([20, 60]),
                },
                "snapshots": {"everySteps": random.choice([1, 1, 2, 3, 5])},
                "failurePolicy": {
                    "backoffLimit": 1000,
                    "arbiterTimeoutSeconds": random.choice([60, 600]),
                },
            },
        }
        return AdaptiveTrainingJob.model_validate(document)

    def _decided(self, controller: BatchState, samples: int) -> BatchState:
        """The batch doubles where the schedule says so, with a request; `maxGrowth` is 2."""
        before = controller.samples
        grows = any(before < threshold <= samples for threshold in self._growth)
        batch = min(controller.batch * 2, 256) if grows else controller.batch
        if batch == controller.batch:
            return replace(controller, samples=samples)
        self.asked_at = self.kernel.now
        sequence = controller.sequence + 1
        return replace(controller, samples=samples, batch=batch, requested=batch, sequence=sequence)
