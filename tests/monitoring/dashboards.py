"""The dashboards as Grafana reads them: panels, queries, and the values of their variables. Pure."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.monitoring.rules import CHART_FILES

NAMES = ("fleet", "job")
LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+), (?P<label>\w+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One query of a panel or of an annotation."""

    dashboard: str
    place: str
    """Title of the panel, or name of the annotation."""
    expression: str
    """As it is stored, with variables."""
    legend: str = ""
    is_instant: bool = False
    column: str = ""
    """What a table calls the value."""

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.place}: {self.legend or self.expression}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What a person has chosen at the top of a dashboard, and what Grafana makes of it."""

    namespace: str
    job: str
    range_seconds: float
    step_seconds: float
    scrape_seconds: float
    """The scrape interval as the data source is told it."""

    def substitute(self, expression: str) -> str:
        """The expression as it is sent.

        https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
        """
        rate = max(self.step_seconds + self.scrape_seconds, 4 * self.scrape_seconds)
        values = {
            "$__rate_interval": f"{rate:.0f}s",
            "$__interval": f"{self.step_seconds:.0f}s",
            "$__range": f"{self.range_seconds:.0f}s",
            "$namespace": self.namespace,
            "$job": self.job,
        }
        for name, value in values.items():
            expression = expression.replace(name, value)
        assert "$" not in expression, f"a variable is left in {expression}"
        return expression


def read_dashboard(name: str) -> dict[str, Any]:
    """The JSON that the chart has."""
    read: dict[str, Any] = json.loads((CHART_FILES / f"dashboards/{name}.json").read_text())
    return read


def as_opened(name: str, chosen: Chosen) -> Chosen:
    """The choice with All where the dashboard offers it, which is how it opens."""
    for variable in read_dashboard(name)["templating"]["list"]:
        if variable.get("includeAll"):
            chosen = replace(chosen, **{variable["name"]: variable["allValue"]})
    return chosen


def queries(name: str) -> Iterator[Query]:
    """Every query of a dashboard, panels first."""
    dashboard = read_dashboard(name)
    for panel in dashboard["panels"]:
        yield from panel_queries(name, panel)
    for entry in dashboard["annotations"].get("list", ()):
        yield Query(
            dashboard=name,
            place=entry["name"],
            expression=entry["expr"],
            legend=f"{entry['titleFormat']}: {entry['textFormat']}",
        )


def panel_queries(name: str, panel: Mapping[str, Any]) -> Iterator[Query]:
    """The queries of one panel."""
    columns = _columns(panel)
    for target in panel.get("targets", ()):
        yield Query(
            dashboard=name,
            place=panel["title"],
            expression=target["expr"],
            legend=target.get("legendFormat", ""),
            is_instant=target.get("instant", False),
            column=columns.get(f"Value #{target['refId']}", ""),
        )


def variables(name: str) -> Iterator[tuple[str, str, str]]:
    """Name, selector and label of each variable whose values Prometheus has."""
    for variable in read_dashboard(name)["templating"]["list"]:
        if variable["type"] == "query":
            found = LABEL_VALUES.fullmatch(variable["query"])
            assert found is not None, variable["query"]
            yield variable["name"], found["selector"], found["label"]


def digest(name: str) -> str:
    """Of all that a picture of the dashboard shows; another one says that the picture is an old one."""
    drawn = [
        (
            panel["type"],
            panel["title"],
            panel["gridPos"],
            panel.get("fieldConfig"),
            panel.get("options"),
            [(query.expression, query.legend) for query in panel_queries(name, panel)],
        )
        for panel in read_dashboard(name)["panels"]
    ]
    events = [(query.expression, query.legend) for query in queries(name)]
    return hashlib.sha256(json.dumps([drawn, events], sort_keys=True).encode()).hexdigest()


def _columns(panel: Mapping[str, Any]) -> dict[str, str]:
    """The names that a table gives to its columns."""
    for entry in panel.get("transformations", ()):
        if entry["id"] == "organize":
            return dict(entry["options"]["renameByName"])
    return {}
