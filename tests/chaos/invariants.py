"""Judges a run from what was collected about it: what must hold whatever was broken. Pure.

Called with evidence (evidence.py) of a run and of an undisturbed one of the same job. Each judgement
answers with the sentences of its violations, none when all is well.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch

from tests.chaos.tasks import CONSUMED

LOSS_BOUND: Final = 1e-5
"""How far the loss of a step may be from that of an undisturbed run, in parts of it.

AdamW in float32 keeps such losses within about 1e-6 across world sizes; 4e-8 was measured here.
"""
STATE_BOUND: Final = 1e-4
"""How far any tensor may be, in parts of its largest value; 1.5e-6 was measured."""
INDEFINITE: Final = "qkv.bias"
"""A key's bias adds the same to all scores of a query, so its gradient is rounding alone, which
AdamW blows up to whole steps: tensors of this name tell nothing."""
GPU_PART, GPU_SECONDS = 0.1, 3.0
"""How far GPU seconds that were told may be from those that were seen: a part, and a rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one worker saw of all parameters in one step."""

    worker: str
    position: int
    """Samples in the state."""
    world_size: int
    rank: int
    sight: int
    """A checksum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known about a run that has ended, or did not end in time."""

    ending: str
    """`completed`, or how else it ended."""
    samples: int
    """Length of the job."""
    max_pods: int
    rows: Sequence[Mapping[str, Any]]
    """Of steps, those that were rolled back included."""
    has_gaps: bool
    """Whether the disk of the record was full: rows may be missing."""
    state: Mapping[str, torch.Tensor]
    """Of the newest checkpoint; empty when there is none that can be read."""
    views: Sequence[View]
    left: Sequence[str]
    """Processes, objects, sockets and temporary files that are still there."""
    most_pods: int
    gpu_seconds_told: float
    gpu_seconds_seen: float


def violations(found: Evidence, *, undisturbed: Evidence) -> list[str]:
    """All violated invariants, as sentences."""
    if found.ending != "completed":
        return [f"the job does not complete: {found.ending}", *leaves_nothing(found)]
    return [
        *consumes_each_sample_once(found, undisturbed),
        *records_each_step_once(found),
        *learns_the_same(found, undisturbed),
        *agrees_across_ranks(found),
        *leaves_nothing(found),
        *keeps_to_the_limit(found),
        *accounts_for_gpus(found),
    ]


def consumes_each_sample_once(found: Evidence, undisturbed: Evidence) -> Iterator[str]:
    """The state was made by each sample exactly once, in a step of the batch that it belongs to."""
    counts, want = found.state.get(CONSUMED), undisturbed.state[CONSUMED]
    if counts is None:
        yield "no checkpoint of the end can be read"
        return
    differing = (counts != want).nonzero().flatten().tolist()
    if differing:
        shares = {i: (counts[i].item(), want[i].item()) for i in differing[:5]}
        yield f"{len(differing)} samples count otherwise than once; (count, should be): {shares}"
    if missing := int((want == 0).sum()):
        yield f"the undisturbed run left out {missing} samples"


def records_each_step_once(found: Evidence) -> Iterator[str]:
    """Rows that count follow each other without gap or overlap, from sample 0 to the last one."""
    if found.has_gaps:
        return
    rows = surviving(found.rows)
    ends = [0, *(row["samples"] for row in rows)]
    for before, row in zip(ends, rows, strict=False):
        begins = row["samples"] - row["global_batch_size"]
        if begins != before:
            yield f"step {row['step']} begins at sample {begins}, the one before ended at {before}"
    steps = [row["step"] for row in rows]
    if steps != list(range(1, len(steps) + 1)):
        jumps = [pair for pair in pairwise(steps) if pair[1] != pair[0] + 1]
        yield f"steps are not numbered one after the other: {jumps[:5]}"
    if ends[-1] < found.samples:
        yield f"the record ends at sample {ends[-1]} of {found.samples}"


def learns_the_same(found: Evidence, undisturbed: Evidence) -> Iterator[str]:
    """Losses of all steps and the state at the end are those of an undisturbed run, but rounding."""
    want = {row["samples"]: row["loss"] for row in surviving(undisturbed.rows)}
    got = {row["samples"]: row["loss"] for row in surviving(found.rows)}
    worst = max(
        ((_apart(got[at], want[at]), at) for at in got.keys() & want.keys()), default=(0.0, 0)
    )
    if worst[0] > LOSS_BOUND:
        yield f"at sample {worst[1]} the loss is off by {worst[0]:.2g} of it (bound {LOSS_BOUND})"
    if strangers := sorted(got.keys() - want.keys()):
        yield f"steps end at samples {strangers[:5]}, where no undisturbed one does"
    apart = {
        name: far
        for name, far in distance(found.state, undisturbed.state).items()
        if not far <= STATE_BOUND and INDEFINITE not in name
    }
    if found.state and apart:
        name = max(apart, key=apart.__getitem__)
        yield (
            f"{len(apart)} tensors are off by more than {STATE_BOUND} of their largest value,"
            f" such as {name} by {apart[name]:.2g}"
        )


def agrees_across_ranks(found: Evidence) -> Iterator[str]:
    """All ranks saw the same parameters and buffers in the same step.

    A position that a rank saw more than once was trained anew; which sights belong together is then
    unknown, and it is left out. Some position must be left, unless one rank trained alone.
    """
    sights: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for view in found.views:
        sights[view.position, view.world_size][view.rank].append(view.sight)
    judged = 0
    for (position, world_size), by_rank in sorted(sights.items()):
        seen = [sight for ranks in by_rank.values() for sight in ranks]
        if len(by_rank) != world_size or len(seen) != world_size:
            continue
        judged += world_size > 1
        if len(set(seen)) > 1:
            yield f"ranks differ at sample {position}: {[f'{sight:08x}' for sight in seen]}"
    sizes = [size for _, size in sights] + [row.get("world_size", 1) for row in found.rows]
    if not judged and max(sizes, default=1) > 1:
        yield "no step was seen by several ranks"


def leaves_nothing(found: Evidence) -> Iterator[str]:
    """Nothing of the run is left but its results."""
    if found.left:
        yield f"left behind: {', '.join(found.left)}"


def keeps_to_the_limit(found: Evidence) -> Iterator[str]:
    """There were never more pods than the maximum.

    Those that were told to end are not counted: one with nothing to hand over holds no place, and
    the next one is created beside it, waiting for its GPU on a node that has no other.
    """
    if found.most_pods > found.max_pods:
        yield f"{found.most_pods} pods at once, of at most {found.max_pods}"


def accounts_for_gpus(found: Evidence) -> Iterator[str]:
    """The job's GPU seconds are those that its pods took."""
    told, seen = found.gpu_seconds_told, found.gpu_seconds_seen
    if abs(told - seen) > GPU_PART * seen + GPU_SECONDS:
        yield f"{told:.1f} GPU seconds are told, {seen:.1f} were seen"


def surviving(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of steps that count."""
    return [row for row in rows if not row.get("discarded")]


def distance(
    found: Mapping[str, torch.Tensor], want: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """By tensor, the largest difference in parts of the largest value; infinite for a missing one."""
    return {name: _tensors_apart(found.get(name), tensor) for name, tensor in want.items()}


def _tensors_apart(found: torch.Tensor | None, want: torch.Tensor) -> float:
    if found is None or found.shape != want.shape:
        return float("inf")
    if not want.numel():
        return 0.0
    found, want = found.double(), want.double()
    return float((found - want).abs().max() / want.abs().max().clamp_min(1e-12))


def _apart(found: float | None, want: float | None) -> float:
    if found is None or want is None:
        return 0.0 if found is want else float("inf")
    return abs(found - want) / abs(want)
