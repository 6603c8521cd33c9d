"""The chart's values: every one, from values.yaml and the comments in it. Called by pages.py."""

import json
from itertools import groupby
from typing import Final

from charts.values import CHART, Value, values
from docs.reference.markdown import code, page, table

_INTRODUCTION: Final = """\
Values of `charts/concertina`. One that is not here, or has the wrong type, is refused by the chart's
schema."""


def values_page() -> str:
    """The whole page: values that share their first name are a section, single ones the first."""
    found = values((CHART / "values.yaml").read_text())
    parts = [_INTRODUCTION, "## General", _table([one for one in found if "." not in one.key])]
    deeper = sorted((one for one in found if "." in one.key), key=_section)
    for name, members in groupby(deeper, key=_section):
        parts += [f"## {name}", _table(list(members))]
    return page("Chart values", *parts)


def _section(value: Value) -> str:
    return value.key.partition(".")[0]


def _table(members: list[Value]) -> str:
    rows = ((code(one.key), code(json.dumps(one.default)), one.comment) for one in members)
    return table(("value", "default", "meaning"), rows)
