"""Generated pages are what their generators write."""

import re

import pytest

from docs.reference.pages import PAGES
from tests.docs.pages import FOLDER


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_what_the_code_says(name):
    """Made anew by `python -m docs.reference`."""
    assert (FOLDER / name).read_text() == PAGES[name]()


def test_every_page_of_the_reference_says_what_writes_it():
    for path in (FOLDER / "reference").glob("*.md"):
        (command,) = re.findall(r"^<!-- Written by `(.+?)`", path.read_text())
        if command == "python -m docs.reference":
            assert f"reference/{path.name}" in PAGES
