"""How a panel looks: one function for each type of panel, so that all of a type look alike.

Called by fleet.py and job.py. Widths are in columns of a grid of 24, heights in its rows. Pure.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as queries

from charts.dashboards.looks import (
    always,
    axis_on_the_right,
    colors_by_value,
    dashed_red,
    legend,
    log_scale,
    newest,
    tooltip,
    words_for_values,
)

SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
CHART_ROWS: Final = 8
STAT_ROWS: Final = 4


class Scale(StrEnum):
    """How a chart spreads its values."""

    LINEAR = "linear"
    POWERS_OF_TWO = "2"
    POWERS_OF_TEN = "10"


class Style(StrEnum):
    """How a chart draws its series."""

    LINES = "lines"
    STEPS = "steps"
    """For what holds until it changes: numbers of pods, sizes of batches, events counted so far."""
    STACKED = "stacked"
    """For parts of a whole."""


def query(expression: str, name: str = "") -> prometheus.Dataquery:
    """A query over the chosen time; `name` is that of its series, with `{{label}}` for a label."""
    asked = (
        prometheus.Dataquery().expr(expression).range().editor_mode(queries.QueryEditorMode.CODE)
    )
    return asked.legend_format(name or "__auto")


def query_now(expression: str, name: str = "") -> prometheus.Dataquery:
    """A query of one value at the end of the chosen time."""
    return query(expression, name).instant()


def query_rows(expression: str) -> prometheus.Dataquery:
    """A query of a table: a row for each series, a column for each of its labels."""
    return query_now(expression).format(queries.PromQueryFormat.TABLE)


def chart(
    title: str,
    *targets: prometheus.Dataquery,
    description: str,
    unit: str,
    width: int = 8,
    style: Style = Style.LINES,
    scale: Scale = Scale.LINEAR,
    dashed: Iterable[str] = (),
    colors: Mapping[str, str] | None = None,
    on_the_right: Mapping[str, str] | None = None,
) -> timeseries.Panel:
    """Values over time.

    `dashed` names the series that are limits, `colors` those whose color means something;
    `on_the_right` gives the series of another unit, and that unit, an axis of their own.
    """
    panel = timeseries.Panel().title(title).description(description).unit(unit).datasource(SOURCE)
    panel = panel.targets(_lettered(targets)).height(CHART_ROWS).span(width)
    panel = panel.line_width(2).show_points(options.VisibilityMode.AUTO).point_size(4)
    panel = panel.fill_opacity(10).gradient_mode(options.GraphGradientMode.OPACITY)
    panel = panel.legend(legend(len(targets))).tooltip(tooltip())
    panel = (
        panel.axis_soft_min(0)
        if scale is Scale.LINEAR
        else panel.scale_distribution(log_scale(int(scale)))
    )
    for name in dashed:
        panel = panel.override_by_name(name, dashed_red())
    for name, color in (colors or {}).items():
        panel = panel.override_by_name(name, [always(color)])
    for name, other_unit in (on_the_right or {}).items():
        panel = panel.override_by_name(name, axis_on_the_right(other_unit))
    return _styled(panel, style)


def number(
    title: str,
    target: prometheus.Dataquery,
    *,
    description: str,
    unit: str,
    width: int = 3,
    decimals: int | None = None,
    steps: Iterable[tuple[float, str]] = (),
    words: Mapping[float, tuple[str, str]] | None = None,
    no_value: str = "-",
) -> stat.Panel:
    """The newest value, large. `steps` give the color from a value on, `words` stand for values."""
    panel = (
        _number(title, target, description=description, width=width).no_value(no_value).unit(unit)
    )
    panel = panel.color_mode(options.BigValueColorMode.VALUE).thresholds(colors_by_value(steps))
    panel = panel.graph_mode(
        options.BigValueGraphMode.NONE if words else options.BigValueGraphMode.AREA
    )
    if decimals is not None:
        panel = panel.decimals(decimals)
    if words:
        panel = panel.mappings([words_for_values(words)])
    return panel


def name_of_series(
    title: str, target: prometheus.Dataquery, *, description: str, width: int = 3
) -> stat.Panel:
    """What the newest series is called, large: for a label that says it all."""
    panel = _number(title, target, description=description, width=width).no_value("-")
    panel = panel.text_mode(options.BigValueTextMode.NAME).graph_mode(
        options.BigValueGraphMode.NONE
    )
    return panel.color_mode(options.BigValueColorMode.NONE)


def bars(
    title: str,
    *targets: prometheus.Dataquery,
    description: str,
    unit: str,
    width: int = 8,
    decimals: int | None = None,
) -> bargauge.Panel:
    """The newest value of each series as a bar."""
    panel = bargauge.Panel().title(title).description(description).unit(unit).datasource(SOURCE)
    panel = panel.targets(_lettered(targets)).height(CHART_ROWS).span(width).min(0)
    panel = panel.orientation(options.VizOrientation.HORIZONTAL).reduce_options(newest())
    panel = panel.display_mode(options.BarGaugeDisplayMode.BASIC).no_value("-")
    panel = panel.color_scheme(dashboards.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
    return panel if decimals is None else panel.decimals(decimals)


def rows(
    title: str,
    columns: Mapping[str, prometheus.Dataquery],
    *,
    description: str,
    labels: Mapping[str, str],
    units: Mapping[str, str],
    links: Mapping[str, str],
    hidden: Iterable[str] = (),
    width: int = 24,
) -> table.Panel:
    """A table with a row for each set of labels.

    `columns` are queries by the name of their column, `labels` the names of the labels' columns;
    `units` and `links` are by column. Of a `hidden` column only the labels are shown.
    """
    targets = list(columns.values())
    panel = table.Panel().title(title).description(description).datasource(SOURCE)
    panel = panel.cell_height(options.TableCellHeight.SM)
    panel = panel.targets(_lettered(targets)).height(CHART_ROWS).span(width)
    # One query per column: the rows of all of them are put together by their labels.
    panel = panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    names = {
        f"Value #{letter}": name for letter, name in zip("ABCDEFGHIJKL", columns, strict=False)
    }
    renamed = {**labels, **names}
    unseen = {value: True for value, name in names.items() if name in hidden}
    organized = {
        "excludeByName": {"Time": True, **unseen},
        "indexByName": {name: number for number, name in enumerate(renamed)},
        "renameByName": renamed,
    }
    panel = panel.with_transformation(
        model.DataTransformerConfig(id_val="organize", options=organized)
    )
    for name, unit in units.items():
        panel = panel.override_by_name(name, [model.DynamicConfigValue(id_val="unit", value=unit)])
    for name, url in links.items():
        link = {"title": "Open the job", "url": url, "targetBlank": False}
        panel = panel.override_by_name(
            name, [model.DynamicConfigValue(id_val="links", value=[link])]
        )
    return panel


def _number(
    title: str, target: prometheus.Dataquery, *, description: str, width: int
) -> stat.Panel:
    panel = stat.Panel().title(title).description(description).datasource(SOURCE)
    panel = panel.targets(_lettered([target])).height(STAT_ROWS).span(width)
    return panel.reduce_options(newest())


def _lettered(targets: Iterable[prometheus.Dataquery]) -> list[Builder[variants.Dataquery]]:
    """Each query with the letter by which a panel knows it, as Grafana gives them."""
    return [
        target.ref_id(letter).datasource(SOURCE)
        for letter, target in zip("ABCDEFGHIJKL", targets, strict=False)
    ]


def _styled(panel: timeseries.Panel, style: Style) -> timeseries.Panel:
    if style is Style.STEPS:
        return panel.line_interpolation(options.LineInterpolation.STEP_AFTER).fill_opacity(0)
    if style is Style.LINES:
        return panel
    panel = panel.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL).group("A"))
    return panel.fill_opacity(40).line_width(1)
