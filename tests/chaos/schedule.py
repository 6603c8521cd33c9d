"""Draws what is broken in a run, when and for how long, from a seed. Pure: no I/O, no clock.

The same seed gives the same schedule for ever on the same machine; what it meets in the run (the
step in which a process dies) is left to the run. Called by `play` and by the table of results.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

T = TypeVar("T")


class Where(StrEnum):
    """Who runs the pods."""

    LOCAL = "local"
    """`concertina run`: a pod is an agent process, the command is the operator."""
    KUBELET = "kubelet"
    """A real node."""


class Fault(StrEnum):
    """What can be done to a run."""

    KILL_WORKER = "kill-worker"
    KILL_LEADER = "kill-leader"
    """The worker of rank 0."""
    KILL_AGENT = "kill-agent"
    KILL_POD = "kill-pod"
    """All processes of a pod at once."""
    KILL_OPERATOR = "kill-operator"
    STOP_WORKER = "stop-worker"
    """SIGSTOP, and SIGCONT in the end."""
    STOP_POD = "stop-pod"
    SLOW_WORKER = "slow-worker"
    """Stopped half of the time."""
    LEAVE = "leave"
    """SIGTERM to a pod's agent; on the node the eviction of its pod."""
    DELETE_MEMBERSHIP = "delete-membership"
    DELETE_REPORT = "delete-report"
    RUBBISH_MEMBERSHIP = "rubbish-membership"
    RUBBISH_REPORT = "rubbish-report"
    FULL_DISK = "full-disk"
    SLOW_DISK = "slow-disk"
    """Writes hang again and again."""
    CLOCK_STEP = "clock-step"
    """The wall clock of our processes jumps, and jumps back in the end."""
    CUT_NETWORK = "cut-network"
    """Between two pods."""
    LOSE_NODE = "lose-node"
    """As if the pod's node had gone: its processes stop and nobody hears of it any more."""
    STOP_API_SERVER = "stop-api-server"
    RESTART_ETCD = "restart-etcd"
    RESTART_RUNTIME = "restart-runtime"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a fault is drawn."""

    seconds: tuple[float, float] = (0.0, 0.0)
    """Range of how long it lasts."""
    weight: float = 1.0
    """How often it is drawn, beside the others."""


COMMON: Final[Mapping[Fault, Kind]] = {
    Fault.KILL_WORKER: Kind(weight=3.0),
    Fault.KILL_LEADER: Kind(weight=2.0),
    Fault.KILL_AGENT: Kind(weight=2.0),
    Fault.KILL_POD: Kind(weight=2.0),
    Fault.KILL_OPERATOR: Kind(seconds=(0.0, 3.0)),
    Fault.STOP_WORKER: Kind(seconds=(0.2, 15.0), weight=2.0),
    Fault.STOP_POD: Kind(seconds=(0.2, 15.0), weight=2.0),
    Fault.SLOW_WORKER: Kind(seconds=(2.0, 6.0)),
    Fault.LEAVE: Kind(weight=2.0),
    Fault.DELETE_MEMBERSHIP: Kind(),
    Fault.DELETE_REPORT: Kind(),
    Fault.RUBBISH_MEMBERSHIP: Kind(),
    Fault.RUBBISH_REPORT: Kind(),
    Fault.FULL_DISK: Kind(seconds=(2.0, 6.0)),
    Fault.SLOW_DISK: Kind(seconds=(2.0, 6.0)),
    Fault.CLOCK_STEP: Kind(seconds=(1.0, 5.0)),
}
KINDS: Final[Mapping[Where, Mapping[Fault, Kind]]] = {
    Where.LOCAL: COMMON,
    Where.KUBELET: {
        **COMMON,
        Fault.CUT_NETWORK: Kind(seconds=(1.0, 20.0), weight=2.0),
        Fault.LOSE_NODE: Kind(seconds=(15.0, 30.0), weight=2.0),
        Fault.STOP_API_SERVER: Kind(seconds=(1.0, 10.0)),
        Fault.RESTART_ETCD: Kind(seconds=(0.0, 3.0)),
        Fault.RESTART_RUNTIME: Kind(seconds=(0.0, 3.0)),
    },
}
"""What can be drawn where."""

MOST_STRIKES: Final = 5
FIRST, LAST = 0.01, 0.75
"""Which part of the run's samples strikes wait for."""
CLOSE_SECONDS: Final = 4.0
"""A strike that follows another within this time may meet its recovery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One fault, when it happens and what it hits."""

    fault: Fault
    target: float
    """In [0, 1): which of those that it can hit, see `chosen`."""
    seconds: float = 0.0
    """How long it lasts; 0 where it is over at once."""
    at_samples: int | None = None
    """It happens when so many samples were trained first; None: see `after_seconds`."""
    after_seconds: float | None = None
    """It happens so long after the strike before it."""

    def __str__(self) -> str:
        when = f"@{self.at_samples}" if self.at_samples is not None else f"+{self.after_seconds}s"
        lasts = f" {self.seconds}s" if self.seconds else ""
        return f"{when} {self.fault}[{self.target:.2f}]{lasts}"


def draw(
    seed: int, *, where: Where, samples: int, only: Iterable[Fault] = ()
) -> tuple[Strike, ...]:
    """What happens in the run of this seed, in order; `samples` is the length of the run.

    `only`: draw among these faults; empty means all that are possible there.
    """
    dice = random.Random(f"{where} {seed}")
    wanted = set(only) or set(Fault)
    kinds = {fault: kind for fault, kind in KINDS[where].items() if fault in wanted}
    if not kinds:
        raise ValueError(f"no fault of {sorted(only)} is possible on {where}")
    strikes: list[Strike] = []
    at = dice.uniform(FIRST, LAST / 2)
    for number in range(dice.randint(1, MOST_STRIKES)):
        fault = dice.choices(list(kinds), [kind.weight for kind in kinds.values()])[0]
        close = number > 0 and dice.random() < 0.4
        at += 0.0 if close else dice.uniform(0.0, max(LAST - at, 0.0)) * (number > 0)
        strikes.append(
            Strike(
                fault=fault,
                target=dice.randrange(1000) / 1000,
                seconds=round(dice.uniform(*kinds[fault].seconds), 1),
                at_samples=None if close else int(at * samples),
                after_seconds=round(dice.uniform(0.0, CLOSE_SECONDS), 1) if close else None,
            )
        )
    return tuple(strikes)


def chosen(candidates: Sequence[T], *, target: float) -> T | None:
    """The one that a strike hits; None when there is none."""
    return candidates[int(target * len(candidates))] if candidates else None
