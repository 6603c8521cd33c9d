"""The resource definitions of the Prometheus Operator that the chart makes objects of.

`python -m tests.chart.monitoring_crds` takes them anew from its Go module, without their
descriptions, which are nine tenths of them.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

COMMITTED = Path(__file__).with_name("monitoring_crds.yaml")
MODULE = "github.com/prometheus-operator/prometheus-operator@v0.86.1"
SUM = "h1:pHUuiRErcFb3nFDox7RxoxpEN0FyT24GtYOkr2GBu04="
PLURALS = ("servicemonitors", "podmonitors", "prometheusrules")


def monitoring_crds() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(COMMITTED.read_text()))


def _downloaded() -> Iterator[dict[str, Any]]:
    # The sum is compared here: a proxy alone may not have the database of sums.
    environment = os.environ | {"GOSUMDB": "off", "GOFLAGS": "-mod=mod"}
    done = subprocess.run(
        ["go", "mod", "download", "-json", MODULE],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found["Sum"] == SUM, found["Sum"]
    folder = Path(found["Dir"]) / "example/prometheus-operator-crd"
    for plural in PLURALS:
        text = (folder / f"monitoring.coreos.com_{plural}.yaml").read_text()
        yield _without_words(yaml.safe_load(text))


def _without_words(value: Any) -> Any:
    """The value without texts named description; a property of that name is a map, and stays."""
    if isinstance(value, dict):
        return {
            key: _without_words(inner)
            for key, inner in value.items()
            if not (key == "description" and isinstance(inner, str))
        }
    if isinstance(value, list):
        return [_without_words(inner) for inner in value]
    return value


if __name__ == "__main__":
    text = yaml.safe_dump_all(_downloaded(), sort_keys=False, width=100, default_flow_style=None)
    COMMITTED.write_text(text)
