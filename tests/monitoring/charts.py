"""Draws a panel of type timeseries: lines, steps and stacks, axes, events and the legend."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import isnan, nan
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tests.monitoring.canvas import (
    COLORS,
    EDGE,
    FAINT,
    PALETTE,
    TEXT,
    Box,
    Canvas,
    clock,
    defaults,
    overridden,
)
from tests.monitoring.series import Event, Series
from tests.monitoring.units import written

CALCULATED = {"lastNotNull": ("Last", lambda values: values[-1]), "max": ("Max", max)}
LETTER, LINE = 0.071, 0.19
"""Inches of a letter and a line of the legend."""
LABELS = 0.62
"""Inches beside a chart for the numbers of an axis."""


def draw_chart(
    canvas: Canvas,
    panel: Mapping[str, Any],
    series: Sequence[Series],
    events: Sequence[Event],
    inside: Box,
) -> None:
    """The panel's series, and the events that fall into its time."""
    legend = _legend(panel, series, inside.width)
    foot = 0.24 + LINE * len(legend)
    on_the_right = [_is_right(panel, one) for one in series]
    space = LABELS * (2 if any(on_the_right) else 1)
    box = Box(
        inside.x + LABELS,
        inside.y + foot,
        inside.width - space - 0.1,
        inside.height - foot - 0.05,
    )
    left = canvas.axes(box)
    _style(left, _unit(panel, series, side=False))
    right = left.twinx() if any(on_the_right) else None
    _draw(panel, series, left, right)
    _scale(panel, left)
    if right is not None:
        _style(right, _unit(panel, series, side=True))
        right.grid(visible=False)
        _from_zero(right)
    for event in events:
        _mark(left, event)
    left.set_xlim(canvas.start, canvas.end)
    for number, row in enumerate(reversed(legend)):
        for x, color, words in row:
            y = inside.y + LINE * number
            canvas.fill(Box(inside.x + x, y + 0.035, 0.16, 0.04), color)
            canvas.write(inside.x + x + 0.22, y, words, size=8, color=TEXT)


def _draw(
    panel: Mapping[str, Any], series: Sequence[Series], left: Axes, right: Axes | None
) -> None:
    custom = defaults(panel)["custom"]
    is_stacked = custom.get("stacking", {}).get("mode") == "normal"
    step = _step(series)
    below: dict[float, float] = {}
    for number, one in enumerate(series):
        axes = right if right is not None and _is_right(panel, one) else left
        own = {**custom, **_own(panel, one)}
        color = _color(panel, one, number)
        times, values = zip(*_with_gaps(one.points, step), strict=True)
        if not is_stacked:
            _line(axes, times, values, color, own)
            continue
        grounds = [below.get(time, 0.0) for time in times]
        tops = [ground + value for ground, value in zip(grounds, values, strict=True)]
        below |= {time: top for time, top in zip(times, tops, strict=True) if not isnan(top)}
        left.fill_between(times, grounds, tops, color=color, alpha=own["fillOpacity"] / 100, lw=0)
        left.plot(times, tops, color=color, lw=1)


def _step(series: Sequence[Series]) -> float:
    """Seconds between two points where none is missing."""
    pairs = (pair for one in series for pair in pairwise(one.points))
    return min((after - before for (before, _), (after, _) in pairs), default=1.0)


def _with_gaps(points: Sequence[tuple[float, float]], step: float) -> Iterator[tuple[float, float]]:
    """The points, and one that is no number wherever others are missing: nothing joins over it."""
    yield points[0]
    for (before, _), (after, value) in pairwise(points):
        if after - before > 1.5 * step:
            yield before + step, nan
        yield after, value


def _line(
    axes: Axes, times: Sequence[float], values: Sequence[float], color: str, own: Mapping[str, Any]
) -> None:
    steps = "steps-post" if own.get("lineInterpolation") == "stepAfter" else "default"
    dashes = "--" if own.get("lineStyle", {}).get("fill") == "dash" else "-"
    marker = "o" if len(times) == 1 else None
    axes.plot(times, values, dashes, color=color, lw=1.4, drawstyle=steps, marker=marker, ms=3)
    if own.get("fillOpacity") and axes.get_yscale() == "linear":
        axes.fill_between(times, values, 0, color=color, alpha=own["fillOpacity"] / 200, lw=0)


def _mark(axes: Axes, event: Event) -> None:
    color = COLORS[event.color]
    axes.axvline(event.time, color=color, lw=1, ls=(0, (3, 3)), alpha=0.9)
    foot = axes.get_xaxis_transform()
    axes.plot([event.time], [0], "^", color=color, ms=5, clip_on=False, transform=foot)


def _style(axes: Axes, unit: str) -> None:
    axes.set_facecolor("none")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.grid(visible=True, color=EDGE, lw=0.6)
    axes.tick_params(colors=FAINT, labelsize=8, length=0, which="both")
    axes.xaxis.set_major_locator(MaxNLocator(4 if axes.bbox.width < 500 else 8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda when, _: clock(when)))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value, unit)))


def _scale(panel: Mapping[str, Any], axes: Axes) -> None:
    custom = defaults(panel)["custom"]
    spread = custom.get("scaleDistribution", {})
    if spread.get("type") == "log":
        formatter = axes.yaxis.get_major_formatter()
        axes.set_yscale("log", base=int(spread["log"]))
        axes.yaxis.set_major_locator(LogLocator(base=spread["log"], numticks=7))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(formatter)
        return
    _from_zero(axes)


def _from_zero(axes: Axes) -> None:
    """An axis that begins at zero, unless there is something below it; never an empty one."""
    low, high = axes.get_ylim()
    is_positive = axes.dataLim.y0 >= 0
    axes.set_ylim(0 if is_positive else low, high if axes.dataLim.y1 > 0 else 1)


def _legend(
    panel: Mapping[str, Any], series: Sequence[Series], width: float
) -> list[list[tuple[float, str, str]]]:
    """The legend's lines: for each series where it begins, its color and its words."""
    lines: list[list[tuple[float, str, str]]] = [[]]
    x = 0.0
    for number, one in enumerate(series):
        words = _legend_words(panel, one)
        needed = 0.22 + LETTER * len(words) + 0.2
        if lines[-1] and x + needed > width:
            lines.append([])
            x = 0.0
        lines[-1].append((x, _color(panel, one, number), words))
        x += needed
    return lines


def _legend_words(panel: Mapping[str, Any], one: Series) -> str:
    unit = _own(panel, one).get("unit", defaults(panel).get("unit", ""))
    values = [value for _, value in one.points]
    calculated = [CALCULATED[name] for name in panel["options"]["legend"]["calcs"]]
    told = (f"{title}: {written(of(values), unit)}" for title, of in calculated)
    return "  ".join((one.name, *told))


def _own(panel: Mapping[str, Any], one: Series) -> dict[str, Any]:
    """What the panel says of this series alone, without the prefix of its kind."""
    found = overridden(panel, one.name)
    return {name.removeprefix("custom."): value for name, value in found.items()}


def _color(panel: Mapping[str, Any], one: Series, number: int) -> str:
    fixed = _own(panel, one).get("color", {}).get("fixedColor")
    return COLORS[fixed] if fixed else PALETTE[number % len(PALETTE)]


def _is_right(panel: Mapping[str, Any], one: Series) -> bool:
    return bool(_own(panel, one).get("axisPlacement") == "right")


def _unit(panel: Mapping[str, Any], series: Sequence[Series], *, side: bool) -> str:
    """The unit of the axis on the left, or of that on the right."""
    if side:
        return str(next(_own(panel, one)["unit"] for one in series if _is_right(panel, one)))
    return str(defaults(panel).get("unit", ""))
