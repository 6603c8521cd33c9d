"""Events that both Prometheus and people see as lines in every chart of a job. Pure.

Prometheus holds values, not events: an event is a value that was another one a moment before. The
value becomes a label, so that the line can tell it.
"""

from typing import Final

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as model

from charts.dashboards.looks import BLUE, RED
from charts.dashboards.panels import SOURCE

_STEP: Final = "15s"
"""Between two looks for events: as far apart as scrapes are."""


class _FromPrometheus(model.AnnotationQuery):
    """An annotation with the fields that are Prometheus' own, which the SDK does not know."""

    step: str = _STEP
    title: str = ""
    text: str = ""

    def to_json(self) -> dict[str, object]:
        """As Grafana stores it."""
        own = {"step": self.step, "titleFormat": self.title, "textFormat": self.text}
        return {**super().to_json(), **own}


class Event(Builder[model.AnnotationQuery]):
    """One kind of event. Its texts name labels, as `{{label}}`."""

    def __init__(self, name: str, expression: str, *, title: str, text: str, color: str) -> None:
        self._built = _FromPrometheus(
            name=name, datasource=SOURCE, enable=True, icon_color=color, expr=expression
        )
        self._built.title = title
        self._built.text = text

    def build(self) -> model.AnnotationQuery:
        """What the dashboard holds."""
        return self._built


def pauses(selector: str) -> Event:
    """Every resize: how long training paused. The start of the job is none."""
    paused = f"max(concertina_last_resize_pause_seconds{{{selector}}}%s)"
    number = f"max(concertina_round{{{selector}}})"
    changed = _changed("seconds", f"round({paused}, 0.001)")
    return Event(
        "Pauses",
        f'{changed} * on () group_left (round) count_values("round", {number})'
        f" and on () sum(concertina_resizes_total{{{selector}}}) > 0",
        title="Round {{round}}",
        text="training paused for {{seconds}} s",
        color=BLUE,
    )


def failures(selector: str) -> Event:
    """Every failure that counts against backoffLimit."""
    counted = f"(max(concertina_job_failures_total{{{selector}}}%s) > 0)"
    return Event(
        "Failures",
        _changed("failures", counted),
        title="Failure",
        text="{{failures}} counted so far",
        color=RED,
    )


def _changed(label: str, expression: str) -> str:
    """The values that the expression has now and had not before, each as this label."""
    now = f'count_values("{label}", {expression % ""})'
    before = f'count_values("{label}", {expression % " offset $__rate_interval"})'
    return f"({now} unless {before})"
