"""The chart's alerts as a test uses them: as they are, or with less patience."""

import re
from copy import deepcopy
from typing import Any

import yaml

from tests.cluster.pods import REPOSITORY

CHART_FILES = REPOSITORY / "charts/concertina/files"
ALERTS = CHART_FILES / "alerts.yaml"
UNITS = {"s": 1, "m": 60, "h": 3600}


def read_rules() -> dict[str, Any]:
    """What the chart puts under the spec of its PrometheusRule."""
    read: dict[str, Any] = yaml.safe_load(ALERTS.read_text())
    return read


def alerts(rules: dict[str, Any]) -> list[dict[str, Any]]:
    """All rules of all groups; an alert with several causes has several rules of one name."""
    return [rule for group in rules["groups"] for rule in group["rules"]]


def shortened(rules: dict[str, Any], *, seconds: int) -> dict[str, Any]:
    """The same rules, each of which waits at most so long until it fires.

    Nobody waits a quarter of an hour in a test: only `for` is replaced, never an expression.
    """
    made = deepcopy(rules)
    for rule in alerts(made):
        if seconds < duration_seconds(rule.get("for", "0s")):
            rule["for"] = f"{seconds}s"
    return made


def duration_seconds(text: str) -> int:
    """The seconds of a duration as Prometheus writes it, such as 1h30m."""
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([smh])", text))
