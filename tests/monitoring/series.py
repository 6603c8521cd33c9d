"""What the queries of a dashboard return, as its panels show it. Called by the pictures."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.monitoring.dashboards import Chosen, Query, panel_queries, read_dashboard
from tests.monitoring.prometheus import Prometheus


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a panel."""

    name: str
    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]
    """Times in seconds since the epoch, and values; NaN is left out."""
    column: str = ""

    @property
    def last(self) -> float:
        """The newest value."""
        return self.points[-1][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of an annotation."""

    time: float
    color: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The time that a dashboard shows."""

    start: float
    end: float
    chosen: Chosen


def panel_series(
    prometheus: Prometheus, name: str, panel: Mapping[str, Any], window: Window
) -> list[Series]:
    """What a panel shows, in the order of its queries."""
    return [
        one
        for query in panel_queries(name, panel)
        for one in _series(prometheus, query, window)
        if one.points
    ]


def events(prometheus: Prometheus, name: str, window: Window) -> list[Event]:
    """The annotations of a dashboard; points that follow each other are one event, as in Grafana."""
    found = []
    for entry in read_dashboard(name)["annotations"].get("list", ()):
        step = float(entry["step"].removesuffix("s"))
        chosen = replace(window.chosen, step_seconds=min(step, window.chosen.step_seconds))
        for series in prometheus.query_range(
            chosen.substitute(entry["expr"]),
            start=window.start,
            end=window.end,
            step_seconds=chosen.step_seconds,
        ):
            words = f"{entry['titleFormat']}: {entry['textFormat']}"
            found.append(
                Event(
                    time=float(series["values"][0][0]),
                    color=entry["iconColor"],
                    words=_named(words, series["metric"], words),
                )
            )
    return sorted(found, key=lambda event: event.time)


def table_rows(panel: Mapping[str, Any], found: list[Series]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a table: its queries put together by their labels, then arranged."""
    options = next(e["options"] for e in panel["transformations"] if e["id"] == "organize")
    renamed, order = options["renameByName"], options["indexByName"]
    shown = sorted(set(renamed) - set(options["excludeByName"]), key=lambda name: order[name])
    columns = [renamed[name] for name in shown]
    merged: dict[tuple[str, ...], dict[str, Any]] = {}
    for one in found:
        key = (one.labels.get("namespace", ""), one.labels.get("job", ""))
        row = merged.setdefault(key, {})
        row |= {renamed[label]: value for label, value in one.labels.items() if label in renamed}
        row[one.column] = one.last
    return columns, [[row.get(column) for column in columns] for row in merged.values()]


def _series(prometheus: Prometheus, query: Query, window: Window) -> list[Series]:
    expression = window.chosen.substitute(query.expression)
    if query.is_instant:
        answers = prometheus.query(expression, at=window.end)
        values = [[answer["value"]] for answer in answers]
    else:
        step = window.chosen.step_seconds
        answers = prometheus.query_range(
            expression, start=window.start, end=window.end, step_seconds=step
        )
        values = [answer["values"] for answer in answers]
    return [
        Series(
            name=_named(query.legend, answer["metric"], expression),
            labels=answer["metric"],
            points=tuple((float(t), float(v)) for t, v in points if v != "NaN"),
            column=query.column,
        )
        for answer, points in zip(answers, values, strict=True)
    ]


def _named(legend: str, labels: Mapping[str, str], otherwise: str) -> str:
    if legend in ("", "__auto"):
        return otherwise
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), legend)
