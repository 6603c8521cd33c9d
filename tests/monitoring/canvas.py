"""The surface of a picture: the grid of a dashboard in inches, boxes, words and axes on it.

Used by the drawing of panels alone.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

COLUMN, ROW, GAP = 0.74, 0.42, 0.09
"""Inches of the grid, and between two panels."""
HEAD, FOOT = 0.75, 1.25
"""Inches above and below the grid."""
DOTS_PER_INCH = 80
DIGEST = "Dashboard"
"""The PNG's word for what the picture was drawn from."""
CANVAS, PANEL, EDGE = "#111217", "#181b1f", "#2b2e34"
TEXT, FAINT = "#d8d9da", "#8e96a3"
PALETTE = ("#73BF69", "#F2CC0C", "#8AB8FF", "#FF780A", "#F2495C", "#5794F2", "#B877D9", "#37872D")
COLORS = {
    "green": "#73BF69",
    "red": "#F2495C",
    "yellow": "#F2CC0C",
    "orange": "#FF9830",
    "blue": "#5794F2",
    "text": TEXT,
}


class Box(NamedTuple):
    """A rectangle in inches from the lower left corner."""

    x: float
    y: float
    width: float
    height: float


class Canvas:
    """One picture of a dashboard at one time."""

    def __init__(self, dashboard: Mapping[str, Any], *, start: float, end: float) -> None:
        rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
        self.width, self.height = 24 * COLUMN + 2 * GAP, rows * ROW + HEAD + FOOT
        self.start, self.end = start, end
        mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 8, "text.color": TEXT})
        self.figure = Figure(figsize=(self.width, self.height), facecolor=CANVAS)
        top = self.height - 0.42
        self.write(0.15, top, dashboard["title"], size=15, weight="bold")
        day = datetime.fromtimestamp(start, UTC).date()
        period = f"{day}  {clock(start)} to {clock(end)} UTC"
        self.write(self.width - 0.15, top, period, size=9, color=FAINT, ha="right")

    def box_of(self, panel: Mapping[str, Any]) -> Box:
        """Where the grid has a panel."""
        place = panel["gridPos"]
        height = place["h"] * ROW
        bottom = self.height - HEAD - place["y"] * ROW - height
        x = GAP + place["x"] * COLUMN
        return Box(x + GAP / 2, bottom + GAP / 2, place["w"] * COLUMN - GAP, height - GAP)

    def frame(self, box: Box) -> None:
        """The ground of a panel."""
        line = 1 / DOTS_PER_INCH
        self.fill(box, EDGE)
        inside = Box(box.x + line, box.y + line, box.width - 2 * line, box.height - 2 * line)
        self.fill(inside, PANEL)

    def fill(self, box: Box, color: str) -> None:
        """A rectangle of one color."""
        corner = (box.x / self.width, box.y / self.height)
        size = (box.width / self.width, box.height / self.height)
        patch = Rectangle(
            corner, *size, transform=self.figure.transFigure, facecolor=color, lw=0, zorder=-1
        )
        self.figure.add_artist(patch)

    def write(self, x: float, y: float, words: str, *, size: float, **more: Any) -> None:
        """Words that begin, or with `ha` are centered or end, at a point."""
        place = (x / self.width, y / self.height)
        self.figure.text(*place, words, fontsize=size, parse_math=False, **more)

    def axes(self, box: Box) -> Axes:
        """Axes in a box."""
        place = (box.x / self.width, box.y / self.height)
        return self.figure.add_axes((*place, box.width / self.width, box.height / self.height))

    def save(self, path: Path, *, digest: str) -> None:
        """Write it as PNG, with the digest of what it shows."""
        words = {"Software": None, DIGEST: digest}
        self.figure.savefig(path, dpi=DOTS_PER_INCH, metadata=words)


def clock(when: float) -> str:
    """The time of day."""
    return datetime.fromtimestamp(when, UTC).strftime("%H:%M:%S")


def defaults(panel: Mapping[str, Any]) -> dict[str, Any]:
    """What a panel says of all its fields."""
    found: dict[str, Any] = panel["fieldConfig"]["defaults"]
    return found


def overridden(panel: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a panel says of the series or column of this name alone."""
    return {
        entry["id"]: entry.get("value")
        for override in panel["fieldConfig"]["overrides"]
        if override["matcher"] == {"id": "byName", "options": name}
        for entry in override["properties"]
    }
