"""README stays true: paths, links, targets."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def section(title):
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("path", re.findall(r"^- `(.+)`$", section("Reading order"), re.MULTILINE))
def test_a_path_of_the_reading_order_exists(path):
    assert (ROOT / path).is_file()


def test_every_link_and_picture_exists():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_make_target_of_the_readme_exists():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert set(re.findall(r"`?make (\w[\w-]*)", README)) <= set(targets)
