"""Writes the table of the chart's values into its README: `python -m charts.values`.

Each value in values.yaml has a comment above it that begins with `# --`, as helm-docs reads them;
lines without the dashes go on with it. A test fails for a value without one, and where the table
is not what is written there.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).parent / "concertina"
README: Final = CHART / "README.md"
BEGIN: Final = "<!-- values: made by `python -m charts.values` -->\n"
END: Final = "<!-- end of values -->\n"
_MARK: Final = "# --"


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One value of the chart."""

    key: str
    """Names joined by dots."""
    default: Any
    comment: str
    """What values.yaml says above it; empty where it says nothing."""


def values(text: str) -> tuple[Value, ...]:
    """What can be set, in the order of values.yaml.

    A map is one value where it has a comment of its own, and else stands for what is in it.
    """
    return tuple(_values(yaml.compose(text), text.splitlines()))


def table(found: tuple[Value, ...]) -> str:
    """The values as a table in Markdown."""
    rows = [
        f"| `{value.key}` | `{json.dumps(value.default)}` | {value.comment.replace('|', chr(92) + '|')} |"
        for value in found
    ]
    return "\n".join(["| Value | Default | Meaning |", "| --- | --- | --- |", *rows, ""])


def with_table(readme: str, made: str) -> str:
    """The README with this table in the place of the old one."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def _values(node: yaml.Node | None, lines: list[str], *path: str) -> Iterator[Value]:
    assert isinstance(node, yaml.MappingNode), f"{'.'.join(path)} is no map"
    for key, inner in node.value:
        here = (*path, str(key.value))
        comment = _comment_above(lines, key.start_mark.line)
        if isinstance(inner, yaml.MappingNode) and inner.value and not comment:
            yield from _values(inner, lines, *here)
        else:
            default = yaml.safe_load(yaml.serialize(inner))
            yield Value(key=".".join(here), default=default, comment=comment)


def _comment_above(lines: list[str], number: int) -> str:
    """The comment that ends above a line, if it begins with the mark."""
    words: list[str] = []
    while number and (line := lines[number - 1].strip()).startswith("#"):
        if line.startswith(_MARK):
            return " ".join([line.removeprefix(_MARK).strip(), *words])
        words.insert(0, line.removeprefix("#").strip())
        number -= 1
    return ""


if __name__ == "__main__":
    made = table(values((CHART / "values.yaml").read_text()))
    README.write_text(with_table(README.read_text(), made))
