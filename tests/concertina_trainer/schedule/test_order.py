from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concertina_trainer.schedule.order import Shuffled, Stream, seed_of

seeds = st.integers(0, 2**32 - 1)


def epoch(number: int, *, num_samples: int, seed: int) -> list[int]:
    order = Shuffled(num_samples=num_samples, seed=seed)
    return [order.index(number * num_samples + i) for i in range(num_samples)]


@pytest.mark.parametrize("num_samples", [1, 2, 3, 4, 5, 10, 16, 17, 99, 100, 101, 1000, 4096])
def test_every_epoch_holds_every_index_once(num_samples):
    for number in (0, 1, 7):
        assert sorted(epoch(number, num_samples=num_samples, seed=3)) == list(range(num_samples))


@settings(deadline=None, max_examples=60)
@given(num_samples=st.integers(1, 300), number=st.integers(0, 10**9), seed=seeds)
def test_any_epoch_of_any_length_is_a_permutation(num_samples, number, seed):
    assert sorted(epoch(number, num_samples=num_samples, seed=seed)) == list(range(num_samples))


@settings(deadline=None, max_examples=60)
@given(num_samples=st.integers(1, 10**15), sample=st.integers(0, 10**18), seed=seeds)
def test_the_index_lies_in_a_data_set_of_any_size(num_samples, sample, seed):
    assert 0 <= Shuffled(num_samples=num_samples, seed=seed).index(sample) < num_samples


def test_neighbours_in_a_huge_data_set_do_not_meet():
    order = Shuffled(num_samples=10**15 + 37, seed=1)
    indices = [order.index(i) for i in range(5000)]
    assert len(set(indices)) == len(indices)
    assert all(abs(a - b) > 1 for a, b in pairwise(indices))


def test_orders_differ_by_seed_and_by_epoch():
    orders = [epoch(n, num_samples=500, seed=seed) for seed in (0, 1, 2) for n in (0, 1, 2)]
    same = [
        sum(a == b for a, b in zip(one, other, strict=True))
        for i, one in enumerate(orders)
        for other in orders[:i]
    ]
    # Two independent permutations agree in one place on average (Poisson, mean 1).
    assert max(same) <= 8
    assert orders[0] != list(range(500))


def test_every_permutation_of_four_is_about_equally_likely():
    draws = 4800
    counts = Counter(tuple(epoch(0, num_samples=4, seed=seed)) for seed in range(draws))
    assert len(counts) == 24
    chi2 = sum((count - draws / 24) ** 2 / (draws / 24) for count in counts.values())
    assert chi2 < 60  # 23 degrees of freedom: above 60 with probability 4e-5


def test_where_an_index_lands_is_about_uniform():
    cells = Counter(
        (i // 25, Shuffled(num_samples=100, seed=seed).index(i) // 25)
        for seed in range(200)
        for i in range(100)
    )
    want_count = 200 * 100 / 16
    assert all(abs(count - want_count) < 0.12 * want_count for count in cells.values())


@settings(deadline=None, max_examples=100)
@given(seed=seeds, sample=st.integers(0, 2**53))
def test_the_streams_of_a_sample_differ_and_fit_a_generator(seed, sample):
    drawn = [seed_of(seed, sample, stream=stream) for stream in Stream]
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= value < 2**64 for value in drawn)


def test_seeds_of_neighbouring_samples_share_no_pattern():
    drawn = [seed_of(0, sample) for sample in range(4000)]
    assert len(set(drawn)) == len(drawn)
    ones = [sum(value >> bit & 1 for value in drawn) for bit in range(64)]
    assert all(abs(count - 2000) < 190 for count in ones)  # six standard deviations


def test_seeds_and_order_never_change():
    """A job that resumes under a newer version must see the same samples."""
    assert (seed_of(0, 0), seed_of(7, 123)) == (0x238275BC38FCBE91, 0xDBD6304CD0729B19)
    order = Shuffled(num_samples=10, seed=7)
    assert [order.index(i) for i in range(10)] == [7, 1, 0, 2, 6, 5, 8, 3, 9, 4]
    assert [order.index(i) for i in range(10, 20)] == [8, 6, 5, 0, 1, 9, 3, 7, 4, 2]


def test_a_data_set_without_samples_is_refused():
    with pytest.raises(ValueError, match="0 samples"):
        Shuffled(num_samples=0, seed=0)
