import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concertina_api import batch
from concertina_api.errors import InvalidJob

sizes = st.integers(1, 64)


@given(count=sizes, world_size=st.integers(1, 9))
def test_every_micro_batch_is_real_on_exactly_one_rank_and_all_ranks_run_the_same_number(
    count, world_size
):
    plans = [batch.slots_of(count, world_size=world_size, rank=rank) for rank in range(world_size)]

    real = sorted(slot.number for plan in plans for slot in plan if slot.real)
    assert real == list(range(count))
    assert {len(plan) for plan in plans} == {batch.accumulation(count, world_size)}
    assert all(0 <= slot.number < count for plan in plans for slot in plan)


def test_a_repeat_is_the_latest_micro_batch_of_its_worker():
    plan = batch.slots_of(5, world_size=3, rank=2)

    assert [(slot.number, slot.real) for slot in plan] == [(2, True), (2, False)]


@pytest.mark.parametrize(
    ("size", "micro", "want_message"),
    [
        pytest.param(100, 8, "batch 100 is not a multiple of microBatchSize 8", id="remainder"),
        pytest.param(4, 8, "batch 4 is not a multiple of microBatchSize 8", id="too small"),
        pytest.param(8, 0, "microBatchSize 0 is below 1", id="no micro-batch"),
    ],
)
def test_a_batch_is_never_floored(size, micro, want_message):
    with pytest.raises(InvalidJob, match=want_message):
        batch.num_micro_batches(size, micro)


@given(initial=sizes, factor=st.integers(1, 100))
def test_the_grid_doubles_and_ends_at_the_maximum(initial, factor):
    found = list(batch.grid(initial, initial * factor))

    assert found[0] == initial
    assert found[-1] == initial * factor
    assert all(b == 2 * a for a, b in itertools.pairwise(found[:-1]))
    assert found[-1] <= 2 * found[-2] if factor > 1 else len(found) == 1


@given(left=st.integers(1, 1000), micro=sizes)
def test_the_last_step_takes_what_is_left_in_whole_micro_batches(left, micro):
    found = batch.last_batch(left, micro)

    assert found % micro == 0
    assert left <= found < left + micro


def test_the_identity_is_one_line_with_all_its_numbers():
    want = "global batch 40 samples = 10 micro-batches x 4, 4 per worker on 3 worker(s)"

    assert batch.identity(4, 10, 3) == want


@given(count=sizes, most=st.integers(1, 16))
def test_workers_for_is_the_smallest_world_that_keeps_the_accumulation(count, most):
    workers = batch.workers_for(count, most)

    assert batch.accumulation(count, workers) <= most
    assert workers == 1 or batch.accumulation(count, workers - 1) > most
