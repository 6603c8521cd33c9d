import pytest
from hypothesis import given
from hypothesis import strategies as st

from concertina_api.merge_patch import merge_patch
from tests.concertina_trainer.agent.kubernetes import merged

VALUES = st.recursive(
    st.integers(0, 3) | st.lists(st.integers(0, 1), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


@pytest.mark.parametrize(
    ("before", "after", "want"),
    [
        pytest.param({"a": 1}, {"a": 1}, {}, id="the same"),
        pytest.param({"a": 1}, {"a": 2}, {"a": 2}, id="another value"),
        pytest.param({"a": 1}, {}, {"a": None}, id="removed"),
        pytest.param({}, {"a": {"b": 1}}, {"a": {"b": 1}}, id="new"),
        pytest.param(
            {"a": {"b": 1, "c": 2}},
            {"a": {"b": 1, "d": 3}},
            {"a": {"c": None, "d": 3}},
            id="nested",
        ),
        pytest.param({"a": [1, 2]}, {"a": [2]}, {"a": [2]}, id="lists are replaced"),
    ],
)
def test_a_merge_patch_holds_what_differs(before, after, want):
    assert merge_patch(before, after) == want


@given(DOCUMENTS, DOCUMENTS)
def test_a_patch_turns_any_document_into_any_other(before, after):
    patch = merge_patch(before, after)

    assert merged(before, patch) == after
    assert bool(patch) == (before != after)
