"""Each invariant holds for an undisturbed run, and is seen when it is violated."""

from dataclasses import replace

import pytest
import torch

from tests.chaos.invariants import Evidence, View, violations
from tests.chaos.tasks import CONSUMED

BATCH, STEPS = 4, 3
SAMPLES = BATCH * STEPS
WEIGHT, KEY_BIAS = "model/weight", "model/blocks.0.qkv.bias"


def row(number: int, **changes):
    facts = {"step": number, "samples": number * BATCH, "global_batch_size": BATCH}
    facts |= {"loss": 6.0 / number}
    return {**facts, **changes}


def view(position: int, rank: int, sight: int, *, world_size: int = 2) -> View:
    return View(worker="w", position=position, world_size=world_size, rank=rank, sight=sight)


WELL = Evidence(
    ending="completed",
    samples=SAMPLES,
    max_pods=2,
    rows=[row(1), row(2), row(3)],
    has_gaps=False,
    state={
        CONSUMED: torch.full((SAMPLES,), 0.5),
        WEIGHT: torch.tensor([1.0, -2.0]),
        KEY_BIAS: torch.tensor([1e-3]),
    },
    views=[view(4, 0, 7), view(4, 1, 7)],
    left=[],
    most_pods=2,
    gpu_seconds_told=60.0,
    gpu_seconds_seen=61.0,
)


def judged(**changes) -> list[str]:
    return violations(replace(WELL, **changes), undisturbed=WELL)


def counts(**at: float) -> dict[str, torch.Tensor]:
    """The state with other counts of samples: `s5=0.0` for sample 5."""
    changed = WELL.state[CONSUMED].clone()
    for name, count in at.items():
        changed[int(name[1:])] = count
    return {**WELL.state, CONSUMED: changed}


def test_an_undisturbed_run_violates_nothing():
    assert judged() == []


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        pytest.param({"ending": "exit code 1"}, "does not complete: exit code 1", id="fails"),
        pytest.param({"state": counts(s5=0.0)}, "1 samples count otherwise", id="sample skipped"),
        pytest.param({"state": counts(s5=1.0)}, "1 samples count otherwise", id="sample twice"),
        pytest.param(
            {"state": counts(s5=0.25, s6=0.25)}, "2 samples count otherwise", id="other batch"
        ),
        pytest.param({"state": {}}, "no checkpoint of the end", id="no checkpoint"),
        pytest.param({"rows": [row(1), row(3)]}, "begins at sample 8", id="row missing"),
        pytest.param(
            {"rows": [row(1), row(2), row(2), row(3)]}, "begins at sample 4", id="row twice"
        ),
        pytest.param({"rows": [row(1), row(2)]}, "ends at sample 8 of 12", id="last row missing"),
        pytest.param(
            {"rows": [row(1), row(2, step=3), row(3, step=4)]},
            "not numbered one after the other",
            id="step number skipped",
        ),
        pytest.param(
            {"rows": [row(1), row(2, loss=3.01), row(3)]}, "sample 8 the loss is off", id="loss"
        ),
        pytest.param(
            {"rows": [row(1), row(2, loss=None), row(3)]}, "sample 8 the loss is off", id="no loss"
        ),
        pytest.param(
            {"state": {**WELL.state, WEIGHT: torch.tensor([1.0, -2.01])}},
            "such as model/weight by 0.005",
            id="parameters",
        ),
        pytest.param(
            {"state": {**WELL.state, WEIGHT: torch.tensor([float("nan"), -2.0])}},
            "such as model/weight by nan",
            id="parameters that are no numbers",
        ),
        pytest.param(
            {"views": [view(4, 0, 7), view(4, 1, 8)]}, "ranks differ at sample 4", id="ranks"
        ),
        pytest.param({"views": [view(4, 0, 7)]}, "no step was seen by several", id="one view"),
        pytest.param(
            {
                "views": [view(4, 0, 7, world_size=1)],
                "rows": [row(1), row(2, world_size=2), row(3)],
            },
            "no step was seen by several",
            id="no view of two",
        ),
        pytest.param({"left": ["worker of tiny-0"]}, "left behind: worker of tiny-0", id="orphan"),
        pytest.param({"most_pods": 3}, "3 pods at once, of at most 2", id="too many pods"),
        pytest.param({"gpu_seconds_told": 40.0}, "40.0 GPU seconds are told", id="too few GPUs"),
        pytest.param({"gpu_seconds_told": 80.0}, "80.0 GPU seconds are told", id="too many GPUs"),
    ],
)
def test_a_violation_is_told(changes, want):
    found = judged(**changes)
    assert len([each for each in found if want in each]) == 1, found


def test_a_rank_that_trained_alone_need_agree_with_nobody():
    assert judged(views=[view(4, 0, 7, world_size=1)]) == []


def test_rows_that_were_rolled_back_do_not_count():
    again = [row(1), row(2, discarded=True, loss=9.0), row(3, discarded=True), row(2), row(3)]
    assert judged(rows=again) == []


def test_rows_may_be_missing_where_the_disk_was_full_but_samples_may_not():
    assert judged(rows=[row(1), row(3)], has_gaps=True) == []
    assert judged(rows=[row(1), row(3)], has_gaps=True, state=counts(s5=0.0)) != []


def test_a_step_that_was_taken_twice_is_not_compared_across_ranks():
    twice = [view(4, 0, 7), view(4, 1, 7), view(8, 0, 1), view(8, 0, 2), view(8, 1, 2)]
    assert judged(views=twice) == []


def test_the_bias_of_keys_may_be_anything():
    assert judged(state={**WELL.state, KEY_BIAS: torch.tensor([-5e-3])}) == []
