"""The list of alerts, each with its runbook, from the chart's rules. Called by pages.py."""

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from charts.values import CHART
from docs.reference.markdown import code, page, table

_INTRODUCTION: Final = """\
One page for each alert: meaning, impact, diagnosis, mitigation. An alert's annotation `runbook_url` leads
to its page. `critical` wants somebody now; `warning` can wait for working hours.

`helm upgrade ... --set monitoring.rules.enabled=true` installs them as a PrometheusRule."""
_PLACEHOLDER: Final = re.compile(r"\{\{[^}]*\}\}")


def runbooks_page() -> str:
    """The whole page."""
    return page(
        "Runbooks", _INTRODUCTION, table(("alert", "severity", "after", "fires when"), _rows())
    )


def _rows() -> Iterator[tuple[str, ...]]:
    for group in yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            name = rule["alert"]
            yield (
                f"[{name}]({name}.md)",
                rule["labels"]["severity"],
                rule.get("for", ""),
                _said(rule),
            )


def _said(rule: dict[str, Any]) -> str:
    """The summary with N for what only a firing alert knows, and the query."""
    summary = _PLACEHOLDER.sub("N", rule["annotations"]["summary"])
    return f"{summary.replace('N/N', 'a job')}<br>{code(' '.join(rule['expr'].split()))}"
