import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concertina_trainer.checkpoint.format import FolderName
from concertina_trainer.checkpoint.retention import Found, obsolete


def name(step: int) -> FolderName:
    return FolderName(step, 1, "0" * 8)


def complete(step: int, sequence: int) -> Found:
    return Found(name=name(step), sequence=sequence)


def partial(step: int, idle_seconds: float = 0.0) -> Found:
    return Found(name=name(step), sequence=None, idle_seconds=idle_seconds)


@pytest.mark.parametrize(
    ("found", "latest", "keep", "want_steps"),
    [
        pytest.param([complete(1, 1), complete(2, 2)], 2, 2, [], id="within keep"),
        pytest.param([complete(1, 1), complete(2, 2), complete(3, 3)], 3, 2, [1], id="one over"),
        pytest.param([complete(9, 1), complete(5, 2)], 5, 1, [9], id="by sequence, not by step"),
        pytest.param([complete(1, 1), complete(2, 2)], 1, 1, [2], id="never what latest names"),
        pytest.param([partial(1), complete(2, 1)], 2, 3, [1], id="incomplete and older"),
        pytest.param([complete(2, 1), partial(3)], 2, 3, [], id="incomplete and being written"),
        pytest.param([complete(2, 1), partial(3, 61)], 2, 3, [3], id="incomplete and given up"),
    ],
)
def test_what_is_removed(found, latest: int, keep: int, want_steps: list[int]) -> None:
    removed = obsolete(found, latest=name(latest), keep=keep, abandoned_seconds=60)
    assert [item.step for item in removed] == want_steps


@settings(deadline=None, max_examples=100)
@given(
    sequences=st.lists(st.integers(min_value=1, max_value=50), min_size=1, unique=True),
    keep=st.integers(min_value=1, max_value=5),
    data=st.data(),
)
def test_what_latest_names_stays_with_the_newest_others(
    sequences: list[int], keep: int, data: st.DataObject
) -> None:
    found = [complete(step, sequence) for step, sequence in enumerate(sequences)]
    latest = data.draw(st.sampled_from(found))
    removed = obsolete(found, latest=latest.name, keep=keep, abandoned_seconds=60)
    kept = [item for item in found if item.name not in removed]
    assert latest in kept
    assert len(kept) == min(keep, len(found))
    others = sorted(item.sequence for item in found if item is not latest)
    want = others[len(others) - (len(kept) - 1) :]
    assert sorted(item.sequence for item in kept if item is not latest) == want
