"""Draws a dashboard as Grafana lays it out, panel by panel, from what its queries return.

Called by `python -m tests.monitoring.pictures`. It is no Grafana: a type of panel that it does not
know is refused, so that a picture never shows less than the JSON says.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.monitoring.canvas import (
    COLORS,
    EDGE,
    FAINT,
    FOOT,
    PALETTE,
    TEXT,
    Box,
    Canvas,
    defaults,
    overridden,
)
from tests.monitoring.charts import draw_chart
from tests.monitoring.series import Event, Series, table_rows
from tests.monitoring.units import written


def draw_panel(
    canvas: Canvas, panel: Mapping[str, Any], series: Sequence[Series], events: Sequence[Event]
) -> None:
    """A panel with its title and what it shows, or the heading of a row."""
    box = canvas.box_of(panel)
    if panel["type"] == "row":
        canvas.write(box.x + 0.06, box.y + 0.09, panel["title"], size=11, weight="bold")
        return
    canvas.frame(box)
    canvas.write(box.x + 0.1, box.y + box.height - 0.22, panel["title"], size=9, weight="bold")
    inside = Box(box.x + 0.1, box.y + 0.08, box.width - 0.2, box.height - 0.36)
    if not series:
        words = defaults(panel).get("noValue") or "No data"
        middle = (box.x + box.width / 2, box.y + box.height / 2)
        canvas.write(*middle, words, size=11, color=FAINT, ha="center")
        return
    match panel["type"]:
        case "stat":
            _draw_stat(canvas, panel, series[0], box)
        case "timeseries":
            draw_chart(canvas, panel, series, events, inside)
        case "bargauge":
            _draw_bars(canvas, panel, series, inside)
        case "table":
            _draw_table(canvas, panel, list(series), inside)
        case other:
            raise AssertionError(f"the pictures do not draw panels of type {other}")


def draw_caption(canvas: Canvas, lines: Sequence[str]) -> None:
    """Words below everything."""
    for number, line in enumerate(lines):
        canvas.write(0.15, FOOT - 0.28 - 0.2 * number, line, size=8.5, color=FAINT)


def _draw_stat(canvas: Canvas, panel: Mapping[str, Any], one: Series, box: Box) -> None:
    words, color = _number(panel, one)
    if panel["options"].get("graphMode") == "area" and len(one.points) > 1:
        axes = canvas.axes(Box(box.x, box.y, box.width, 0.3 * box.height))
        axes.axis("off")
        times, values = zip(*one.points, strict=True)
        axes.fill_between(times, values, min(0.0, *values), color=color, alpha=0.18, lw=0)
        axes.plot(times, values, color=color, lw=1)
        axes.set_xlim(canvas.start, canvas.end)
    middle = (box.x + box.width / 2, box.y + 0.5 * box.height)
    size = 25 if len(words) < 9 else 17
    canvas.write(*middle, words, size=size, color=color, ha="center", va="center", weight="bold")


def _number(panel: Mapping[str, Any], one: Series) -> tuple[str, str]:
    """What a stat says, and in which color."""
    said = defaults(panel)
    if panel["options"].get("textMode") == "name":
        return one.name, TEXT
    for mapping in said.get("mappings") or ():
        if found := mapping["options"].get(f"{one.last:g}"):
            return found["text"], COLORS[found["color"]]
    steps = said["thresholds"]["steps"]
    reached = [step for step in steps if step["value"] is None or one.last >= step["value"]]
    words = written(one.last, said.get("unit", ""), decimals=said.get("decimals"))
    return words, COLORS[reached[-1]["color"]]


def _draw_bars(
    canvas: Canvas, panel: Mapping[str, Any], series: Sequence[Series], inside: Box
) -> None:
    said = defaults(panel)
    step = min(inside.height / len(series), 0.42)
    names = min(0.46 * inside.width, 0.078 * max(len(one.name) for one in series) + 0.15)
    full = inside.width - names - 0.85
    most = max(one.last for one in series) or 1
    for number, one in enumerate(series):
        x, y = inside.x + names, inside.y + inside.height - (number + 1) * step
        color = PALETTE[number % len(PALETTE)]
        middle = y + step / 2
        canvas.write(x - 0.1, middle, one.name, size=8.5, ha="right", va="center_baseline")
        canvas.fill(Box(x, y + 0.05, full, step - 0.1), "#22252b")
        canvas.fill(Box(x, y + 0.05, max(full * one.last / most, 0.02), step - 0.1), color)
        value = written(one.last, said.get("unit", ""), decimals=said.get("decimals"))
        place = {"va": "center_baseline", "weight": "bold", "color": color}
        canvas.write(x + full + 0.08, middle, value, size=9, **place)


def _draw_table(
    canvas: Canvas, panel: Mapping[str, Any], series: list[Series], inside: Box
) -> None:
    columns, rows = table_rows(panel, series)
    step, top = inside.width / len(columns), inside.y + inside.height - 0.25
    for number, column in enumerate(columns):
        x = inside.x + 0.05 + number * step
        canvas.write(x, top, column, size=9, color=COLORS["blue"], weight="bold")
    for line, row in enumerate(rows, start=1):
        y = top - 0.3 * line
        canvas.fill(Box(inside.x, y + 0.2, inside.width, 0.008), EDGE)
        for number, (column, value) in enumerate(zip(columns, row, strict=True)):
            said = overridden(panel, column)
            color = COLORS["blue"] if "links" in said else TEXT
            words = _cell(value, said.get("unit", "none"))
            canvas.write(inside.x + 0.05 + number * step, y, words, size=9, color=color)


def _cell(value: str | float | None, unit: str) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else written(value, unit)
