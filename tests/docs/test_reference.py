"""Generated pages are what their generators write."""

import pytest

from docs.reference.pages import PAGES
from tests.docs.pages import FOLDER


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_what_the_code_says(name):
    """Made anew by `python -m docs.reference`."""
    assert (FOLDER / name).read_text() == PAGES[name]()


def test_no_page_of_the_reference_is_written_by_hand():
    assert {f"reference/{path.name}" for path in (FOLDER / "reference").glob("*.md")} <= set(PAGES)
