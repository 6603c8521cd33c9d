"""The panels of the dashboards, from the JSON that the chart installs. Called by pages.py."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from charts.values import CHART
from docs.reference.markdown import code, page, table

_INTRODUCTION: Final = """\
What each panel of the two dashboards shows, and the queries behind it. [Reading the
dashboards](../guides/dashboards.md) says where to look first. `$namespace` and `$job` are chosen on top
of the dashboard."""
_FILES: Final = ("fleet.json", "job.json")


def dashboards_page() -> str:
    """The whole page."""
    documents = [json.loads((CHART / "files/dashboards" / name).read_text()) for name in _FILES]
    parts = [part for document in documents for part in _dashboard(document)]
    return page("Panels of the dashboards", _INTRODUCTION, *parts)


def _dashboard(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {document['title'].rpartition(' / ')[2]}"
    rows: list[tuple[str, ...]] = []
    for panel in document["panels"]:
        if panel["type"] == "row":
            yield from _flushed(rows)
            yield f"### {panel['title']} {{ #{document['uid']}-{panel['id']} }}"
        else:
            queries = "<br>".join(code(" ".join(one["expr"].split())) for one in panel["targets"])
            rows.append((panel["title"], panel["description"], queries))
    yield from _flushed(rows)
    yield "### Annotations " + f"{{ #{document['uid']}-annotations }}"
    marks = [(one["name"], code(one["expr"])) for one in document["annotations"].get("list", ())]
    yield table(("mark", "query"), marks) if marks else "None."


def _flushed(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """The rows so far as a table; none afterwards."""
    if rows:
        yield table(("panel", "what it shows", "queries"), rows)
    rows.clear()
