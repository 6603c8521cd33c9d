"""`python -m tests.images base|sizes|licences`: what is made once, and what README and docs say.

`base` makes the base of the tests' images, which else the first test does. The others build the
images, as the tests do: `sizes` prints a table, `licences` writes a page of the docs.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.build import REQUIRED
from tests.cluster.pods import REPOSITORY
from tests.images.archives import compressed_size, describe
from tests.images.base import local_base
from tests.images.images import TARGETS, Images, build_images, images_obstacle
from tests.images.licences import licences_page

PAGE = REPOSITORY / "docs" / "pages" / "reference" / "licences.md"
OF_THE_BASE = ("pip",)
"""Packages of the tests' base, which are in no image of a release."""


def page_of(images: Images) -> str:
    """The page of licences that belongs to these images."""
    bills = {one: json.loads((images.boms / f"{one}.cdx.json").read_text()) for one in TARGETS}
    return licences_page(bills, but=OF_THE_BASE)


def table_of(images: Images) -> Iterator[str]:
    """What each image adds to its base, and the base, in MB; a registry stores it compressed."""
    yield "| image | unpacked, MB | compressed, MB |"
    yield "| --- | --- | --- |"
    for target in TARGETS:
        archive = getattr(images, target).archive
        base, *added = describe(archive).layers
        yield _row(f"`{target}`, without its base", archive, added)
    yield _row("base of the tests (Debian with Python)", archive, [base])


def _row(name: str, archive: Path, layers: list) -> str:
    sizes = (sum(one.size for one in layers), sum(compressed_size(archive, one) for one in layers))
    return f"| {name} | {' | '.join(f'{size / 1e6:.0f}' for size in sizes)} |"


def main() -> int:
    """1 where there can be no images; without a base the tests are skipped, unless it is required."""
    parser = argparse.ArgumentParser(prog="python -m tests.images", description=__doc__)
    parser.add_argument("what", choices=("base", "sizes", "licences"))
    chosen = parser.parse_args()
    if reason := images_obstacle():
        print(reason, file=sys.stderr)
        is_wish = chosen.what == "base" and os.environ.get(REQUIRED) != "1"
        return 0 if is_wish else 1
    if chosen.what == "base":
        print(local_base().layout)
        return 0
    with tempfile.TemporaryDirectory(prefix="concertina-images-") as folder:
        images = build_images(Path(folder))
        if chosen.what == "sizes":
            print("\n".join(table_of(images)))
        else:
            PAGE.write_text(page_of(images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
