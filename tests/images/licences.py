"""The page of the licences of all packages in the images, from their bills of materials.

Written by `python -m tests.images licences`; a test compares. Pure.
"""

from collections.abc import Iterable, Mapping
from typing import Any

HEAD = """\
<!-- Written by `python -m tests.images licences` from the images' bills of materials; do not edit. -->

# Licences

Concertina is under the Apache License 2.0. Its images bring these Python packages, as `uv.lock` pins
them, under the licences that their authors declare. What a base image brings (Python, the
distribution, torch with the libraries that it is built on) is under its own. The same list is in each
image, as CycloneDX: `/opt/concertina/sbom.cdx.json`.

| package | version | licence | in the image |
| --- | --- | --- | --- |
"""
_CLASSIFIER = "License :: OSI Approved :: "


def licences_page(bills: Mapping[str, Mapping[str, Any]], *, but: Iterable[str] = ()) -> str:
    """The page of these bills, by the name of the image; packages of its base are not ours."""
    images: dict[tuple[str, str, str], list[str]] = {}
    for image, bill in sorted(bills.items()):
        for component in bill["components"]:
            if component["name"] not in but:
                row = (component["name"], component["version"], licence(component))
                images.setdefault(row, []).append(image)
    rows = sorted(images.items(), key=lambda item: item[0][0].lower())
    return HEAD + "".join(f"| {' | '.join(row)} | {', '.join(where)} |\n" for row, where in rows)


def licence(component: Mapping[str, Any]) -> str:
    """What a package declares: an expression, else SPDX's names, else its classifiers."""
    declared = component.get("licenses", ())
    for found in (
        [one["expression"] for one in declared if "expression" in one],
        [one["license"]["id"] for one in declared if "id" in one.get("license", ())],
        [one["license"]["name"] for one in declared if "name" in one.get("license", ())],
    ):
        if found:
            return " AND ".join(dict.fromkeys(one.removeprefix(_CLASSIFIER) for one in found))
    raise ValueError(f"{component['name']} declares no licence")
