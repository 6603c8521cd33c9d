"""Which metrics and labels an expression names, against the two tables of those that there are. Pure."""

import re
from collections.abc import Iterator

from concertina_operator.cluster import metrics_table as operator
from concertina_trainer.agent import metrics as trainer

TARGET_LABELS = {"namespace", "job", "pod"}
"""Every series has them from its target, as the monitors label it."""
FOREIGN = {
    "ALERTS": {"alertname", "alertstate", "severity"},
    "up": set(),
}
"""Metrics of Prometheus itself, with the labels of their own."""
NAME = re.compile(r"\b(concertina_\w+|ALERTS|up)\b(?:\{(?P<selector>[^{}]*)\})?")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^()]*)\)")
MADE = re.compile(r'count_values\("(\w+)"')


def metric_labels() -> dict[str, set[str]]:
    """The labels of every series that there is, by its name."""
    found: dict[str, set[str]] = dict(FOREIGN)
    for metric in (*operator.METRICS, *trainer.METRICS):
        labels = set(metric.labels)
        found[metric.name] = labels
        if metric.type == "histogram":
            found |= {f"{metric.name}_bucket": labels | {"le"}}
            found |= {f"{metric.name}_{part}": labels for part in ("sum", "count")}
    return found


def problems(expression: str) -> list[str]:
    """What of an expression there is not."""
    return list(_problems(expression))


def names(text: str) -> set[str]:
    """The metrics that a text names."""
    return {found[1] for found in NAME.finditer(text)}


def _problems(expression: str) -> Iterator[str]:
    known = metric_labels()
    there = set(MADE.findall(expression)) | TARGET_LABELS
    for found in NAME.finditer(expression):
        name, selector = found[1], found["selector"] or ""
        if name not in known:
            yield f"there is no metric {name}"
            continue
        there |= known[name]
        for label in set(LABEL.findall(_without_values(selector))) - known[name] - TARGET_LABELS:
            yield f"{name} has no label {label}"
    for group in GROUPED.findall(expression):
        for label in {entry.strip() for entry in group.split(",")} - there - {""}:
            yield f"nothing in {expression} has a label {label}"


def _without_values(selector: str) -> str:
    return re.sub(r'"[^"]*"', '""', selector)
