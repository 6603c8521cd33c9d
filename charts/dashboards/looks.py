"""The looks that panels share: legends, colors by value, axes. Called by panels.py. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from grafana_foundation_sdk.builders import common
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model

GREEN: Final = "green"
YELLOW: Final = "yellow"
ORANGE: Final = "orange"
RED: Final = "red"
BLUE: Final = "blue"
TEXT: Final = "text"


def legend(num_queries: int) -> common.VizLegendOptions:
    """Names below the chart, with the newest value; of several series also with the largest."""
    made = common.VizLegendOptions().placement(options.LegendPlacement.BOTTOM).show_legend(True)  # noqa: FBT003 - the SDK's
    calcs = ["lastNotNull", "max"] if num_queries > 1 else ["lastNotNull"]
    return made.display_mode(options.LegendDisplayMode.LIST).calcs(calcs)


def tooltip() -> common.VizTooltipOptions:
    """All series under the pointer, the largest first."""
    every_series = common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI)
    return every_series.sort(options.SortOrder.DESCENDING)


def log_scale(base: int) -> common.ScaleDistributionConfig:
    """An axis on which each line is so many times the one below."""
    return common.ScaleDistributionConfig().type(options.ScaleDistribution.LOG).log(base)


def newest() -> common.ReduceDataOptions:
    """One number of a series: its newest."""
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)  # noqa: FBT003 - the SDK's


def colors_by_value(steps: Iterable[tuple[float, str]]) -> dashboards.ThresholdsConfig:
    """Colors by value; without steps the color of text."""
    found = [model.Threshold(value=value, color=color) for value, color in steps]
    base = model.Threshold(value=None, color=GREEN if found else TEXT)
    return dashboards.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps([base, *found])


def words_for_values(words: Mapping[float, tuple[str, str]]) -> model.ValueMap:
    """Text and color in the place of each of these values."""
    return model.ValueMap(
        options={
            f"{value:g}": model.ValueMappingResult(text=text, color=color, index=number)
            for number, (value, (text, color)) in enumerate(words.items())
        }
    )


def always(color: str) -> model.DynamicConfigValue:
    """One color for a series, whatever others there are."""
    return model.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})


def dashed_red() -> list[model.DynamicConfigValue]:
    """How a series looks that is a limit."""
    return [
        model.DynamicConfigValue(
            id_val="custom.lineStyle", value={"fill": "dash", "dash": [10, 10]}
        ),
        model.DynamicConfigValue(id_val="custom.fillOpacity", value=0),
        always(RED),
    ]


def axis_on_the_right(unit: str) -> list[model.DynamicConfigValue]:
    """How a series looks that has a unit of its own."""
    return [
        model.DynamicConfigValue(id_val="unit", value=unit),
        model.DynamicConfigValue(id_val="custom.axisPlacement", value="right"),
        model.DynamicConfigValue(id_val="custom.fillOpacity", value=0),
    ]
