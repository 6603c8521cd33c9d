"""What goes wrong in a schedule: at random moments, or when a worker reaches a point of the protocol.

Drawn from the schedule's randomness before anything starts, undone when their time is over, so
that what is left alone afterwards must come to its end.
"""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from concertina_trainer.rounds.phases import LAST_SAVE
from tests.simulation.api_server import API, answers_all

if TYPE_CHECKING:
    from tests.simulation.operators import Operator
    from tests.simulation.pods import Pod
    from tests.simulation.worker import Worker
    from tests.simulation.world import World

POINTS = (
    "greet", "open", "exchange", "build", "done", "commit", "begin", "beat", "optimizer", "snapshot",
)  # fmt: skip
"""Where a worker can be hit; those of rounds/phases.py and those of a step."""

HITS = ("kill", "kill pod", "freeze", "cut")
"""How."""

LOST_ANSWERS = "answers lost"
"""The API server has written something, and who asked for it is not told."""
LOST_SHARE = 0.05
"""Of the answers, in a schedule that loses any."""


class Faults:
    """The faults of one schedule."""

    def __init__(self, world: "World", *, seed: int, only: tuple[str, ...] = ()) -> None:
        self._world = world
        self._only = only
        self._kernel = world.kernel
        self._armed: dict[str, list[tuple[int, str]]] = {}
        """Faults by point: after how many more workers have reached it."""
        self._undo: list[Callable[[], None]] = []
        self._spec = world.job.spec
        self._last = Random(f"last save {seed}")
        self._answers = Random(f"unheard answers {seed}")
        self.end = 0.0
        """When the last fault is over."""

    def begin(self) -> None:
        """Draw them."""
        random, world = self._kernel.random, self._world
        steps = world.total / 32
        span = steps * world.step_seconds * random.uniform(0.3, 1.2) + random.uniform(5, 60)
        timed = [name for name in self._timed() if name in self._only or not self._only]
        for _ in range(random.choice([0, 1, 1, 2, 2, 3, 4, 6])):
            if timed:
                self._kernel.after(random.uniform(1.0, span), self._happen, random.choice(timed))
        for _ in range(random.choice([0, 0, 1, 1, 2, 3])):
            point, what = random.choice(POINTS), random.choice(HITS)
            if not self._only or {point, what} <= set(self._only):
                self._armed.setdefault(point, []).append((random.randint(1, 12), what))
        # Randomness of its own: schedules that do not end with a fault stay what they were.
        is_drawn = self._last.random() < 0.15
        if LAST_SAVE in self._only or (is_drawn and not self._only):
            self._armed[LAST_SAVE] = [(self._last.randint(1, 3), self._last.choice(HITS))]
        is_drawn = self._answers.random() < 0.15
        if LOST_ANSWERS in self._only or (is_drawn and not self._only):
            world.api.loses_answer = self._loses_answer
        self.end = span

    def stop(self) -> None:
        """From now on nothing goes wrong any more, and all that can be mended is."""
        self._armed = {}
        undo, self._undo = self._undo, []
        for mend in undo:
            mend()
        self._world.api.loses_answer = answers_all
        self._world.api.change_spec(suspend=False, pods=self._spec.pods)
        self._kernel.say("from now on nothing goes wrong")

    def reached(self, point: str, worker: "Worker") -> None:
        """A worker is at a point of the protocol."""
        waiting = self._armed.get(point)
        if not waiting:
            return
        left = [(number - 1, what) for number, what in waiting]
        self._armed[point] = [entry for entry in left if entry[0] > 0]
        for number, what in left:
            if number <= 0:
                self._count(f"{what} at {point}", worker.name)
                self._hit(what, worker)

    def _loses_answer(self, what: str) -> bool:
        is_lost = self._answers.random() < LOST_SHARE
        if is_lost:
            self._count(LOST_ANSWERS, what)
        return is_lost

    def _hit(self, what: str, worker: "Worker") -> None:
        match what:
            case "kill":
                worker.kill()
            case "kill pod":
                self._kernel.after(0.0, worker.agent.pod.kill)
            case "freeze":
                self._freeze(worker.agent, self._kernel.some(1.0, 40.0))
            case "cut":
                everything = self._others(worker.agent.pod)
                self._cut({worker.place.uid}, everything, self._kernel.some(1.0, 60.0))

    def _timed(self) -> dict[str, Callable[[], None]]:
        return {
            "kill a worker": lambda: self._each(self._some_workers(1), lambda one: one.kill()),
            "user error": lambda: self._each(self._some_workers(1), _poison),
            "kill a pod": lambda: self._each(self._some_pods(1), lambda pod: pod.kill()),
            "kill two pods": lambda: self._each(self._some_pods(2), lambda pod: pod.kill()),
            "kill all pods": lambda: self._each(self._some_pods(9), lambda pod: pod.kill()),
            "node dies": lambda: self._each(self._some_pods(1), lambda pod: pod.node_died()),
            "freeze a pod": lambda: self._each(
                self._some_pods(1), lambda pod: self._freeze(pod.agent, self._some_time())
            ),
            "freeze a worker": lambda: self._each(
                self._some_workers(1), lambda one: self._freeze(one, self._some_time())
            ),
            "evict a pod": lambda: self._each(self._some_pods(1), self._evict),
            "evict two pods": lambda: self._each(self._some_pods(2), self._evict),
            "evict all pods": lambda: self._each(self._some_pods(9), self._evict),
            "cut a pod off": lambda: self._each(self._some_pods(1), self._cut_off),
            "cut a pod from the api": lambda: self._each(
                self._some_pods(1), lambda pod: self._cut({pod.uid}, {API}, self._some_time())
            ),
            "cut between pods": self._cut_between,
            "cut off half": self._cut_off_half,
            "operator crash": lambda: self._each(self._some_operators(1), self._crash),
            "both operators crash": lambda: self._each(self._some_operators(2), self._crash),
            "operator freeze": lambda: self._each(
                self._some_operators(1), lambda one: self._freeze(one.process, self._some_time())
            ),
            "api down": self._api_down,
            "api slow": self._api_slow,
            "suspend": self._suspend,
            "fewer pods": self._fewer_pods,
            "membership deleted": self._world.api.forget_membership,
            "report deleted": lambda: self._each(
                self._some_pods(1), lambda pod: self._world.api.forget_report(pod.name)
            ),
        }

    def _happen(self, name: str) -> None:
        if self._kernel.now <= self.end:
            self._count(name, "")
            self._timed()[name]()

    def _count(self, name: str, who: str) -> None:
        faults = self._world.judge.counts.faults
        faults[name] = faults.get(name, 0) + 1
        self._kernel.say(f"FAULT: {name} {who}")

    def _each(self, found: list, act: Callable[[Any], None]) -> None:
        for one in found:
            self._kernel.say(f"FAULT hits {getattr(one, 'name', one)}")
            act(one)

    def _some_time(self) -> float:
        return self._kernel.random.choice([1.0, 3.0, 10.0, 30.0, 120.0]) * self._kernel.some(
            0.7, 1.3
        )

    def _some_pods(self, number: int) -> list["Pod"]:
        running = [pod for pod in self._world.pods if pod.runs]
        return self._kernel.random.sample(running, min(number, len(running)))

    def _some_workers(self, number: int) -> list["Worker"]:
        running = [one for one in self._world.workers.values() if not one.process.dead]
        return self._kernel.random.sample(running, min(number, len(running)))

    def _some_operators(self, number: int) -> list["Operator"]:
        leaders_first = sorted(self._world.operators, key=lambda one: not one.leads_now)
        return leaders_first[:number]

    def _others(self, pod: "Pod") -> set[str]:
        return {API, *(other.uid for other in self._world.pods if other is not pod)}

    def _freeze(self, one: Any, seconds: float) -> None:
        one.freeze()
        self._later(seconds, one.thaw)

    def _evict(self, pod: "Pod") -> None:
        grace = self._kernel.random.choice([2, 5, 30])
        if pod.name in self._world.api.objects["pod"]:
            self._world.api.begin_deletion(pod.name, grace=grace)

    def _cut(self, some: set[str], others: set[str], seconds: float) -> None:
        number = self._world.network.cut(frozenset(some), frozenset(others))
        self._later(seconds, lambda: self._world.network.heal(number))

    def _cut_off(self, pod: "Pod") -> None:
        self._cut({pod.uid}, self._others(pod), self._some_time())

    def _cut_between(self) -> None:
        pods = self._some_pods(2)
        if len(pods) == 2:
            self._cut({pods[0].uid}, {pods[1].uid}, self._some_time())

    def _cut_off_half(self) -> None:
        pods = self._some_pods(9)
        half = {pod.uid for pod in pods[: len(pods) // 2]}
        rest = {pod.uid for pod in pods} - half
        if self._kernel.random.random() < 0.5:
            rest |= {API}
        self._cut(half, rest, self._some_time())

    def _crash(self, operator: "Operator") -> None:
        operator.crash()
        self._later(self._some_time(), operator.start)

    def _api_down(self) -> None:
        api = self._world.api
        api.up = False
        self._later(self._some_time(), lambda: setattr(api, "up", True))

    def _api_slow(self) -> None:
        api = self._world.api
        api.slow = True
        self._later(self._some_time(), lambda: setattr(api, "slow", False))

    def _suspend(self) -> None:
        api = self._world.api
        api.change_spec(suspend=True)
        self._later(self._some_time(), lambda: api.change_spec(suspend=False))

    def _fewer_pods(self) -> None:
        api, pods = self._world.api, self._spec.pods
        fewer = self._kernel.random.randint(1, pods.max)
        api.change_spec(pods=pods.model_copy(update={"min": 1, "max": fewer}))
        self._later(self._some_time(), lambda: api.change_spec(pods=pods))

    def _later(self, seconds: float, mend: Callable[[], None]) -> None:
        """Undo it after so long, or when the faults end."""
        undo = _Once(mend)
        self._undo.append(undo)
        self._kernel.after(seconds, undo)


class _Once:
    """Called twice, it acts once."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act

    def __call__(self) -> None:
        act, self._act = self._act, None
        if act is not None:
            act()


def _poison(worker: "Worker") -> None:
    worker.poison = True
