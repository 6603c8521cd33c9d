"""What is seen of a job that grows from pod to pod, and what of its record compares with another's."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.e2e.kubelet.runs import Identity, KubeletRun

SAME = ("step", "samples", "global_batch_size", "num_micro_batches", "learning_rate")


@dataclass
class Grown:
    """What was seen while the job was alive."""

    run: KubeletRun
    identities: dict[int, dict[str, Identity]] = field(default_factory=dict)
    """Who trained, by the number of workers."""
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The pods as they were left."""

    def survivors_stayed(self) -> bool:
        """Whether every process that trained went on in every larger round."""
        return all(
            before.items() <= after.items() for before, after in pairwise(self.identities.values())
        )


def watch_growth(run: KubeletRun, sizes: Iterable[int]) -> Grown:
    """Look at who trains at each size, and wait until the job has completed."""
    grown = Grown(run)
    for size in sizes:
        run.wait_steps(1, workers=size)
        grown.identities[size] = run.identities()
    run.wait_completed()
    grown.pods = run.pods()
    return grown


def course(steps: Iterable[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What of a record does not depend on who trained: the same for every run of a job."""
    return [tuple(row[name] for name in SAME) for row in steps]


def losses(steps: Iterable[dict[str, Any]]) -> list[float]:
    """Of each step; they depend on who trained as far as sums depend on their order."""
    return [row["loss"] for row in steps]
