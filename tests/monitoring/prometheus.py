"""A real Prometheus, started for a test, and what tests ask it.

It runs on this machine, outside the cluster's namespaces: the host has routes to the node's pods.
"""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.api import wait_for
from tests.cluster.build import binary, missing
from tests.cluster.fixtures import required_or_skipped
from tests.cluster.tools import MONITORING
from tests.monitoring.rules import read_rules
from tests.ports import free_port

START_SECONDS = 60.0
STOP_SECONDS = 30.0
TARGET_SECONDS = 60.0
FIRING_SECONDS = 120.0
INTERVAL_SECONDS = 1
"""Between two scrapes, and between two looks at the rules: a test is over in minutes."""


class Prometheus:
    """A server that answers."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.started_at = time.time()

    def query(self, expression: str, *, at: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant query, each with `metric` and `value`."""
        asked = {"query": expression, **({} if at is None else {"time": f"{at:.3f}"})}
        return list(self._get("query", asked)["result"])

    def query_range(
        self, expression: str, *, start: float, end: float, step_seconds: float
    ) -> list[dict[str, Any]]:
        """The series of a range query, each with `metric` and `values`."""
        asked = {"query": expression, "start": f"{start:.3f}", "end": f"{end:.3f}"}
        return list(self._get("query_range", {**asked, "step": f"{step_seconds:g}"})["result"])

    def value(self, expression: str) -> float | None:
        """The one number that an instant query finds; None where it finds nothing."""
        found = self.query(expression)
        assert len(found) <= 1, f"{expression} finds {len(found)} series"
        return float(found[0]["value"][1]) if found else None

    def label_values(self, label: str, *, selector: str) -> list[str]:
        """The values of a label, as a dashboard's variable asks for them."""
        found: list[str] = self._get(f"label/{label}/values", {"match[]": selector})
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that are pending or firing."""
        return list(self._get("alerts", {})["alerts"])

    def wait_up(self, *, namespace: str, job: str, count: int = 1) -> None:
        """Wait until so many targets with these labels answer."""
        expression = f'count(up{{namespace="{namespace}", job="{job}"}} == 1)'
        wait_for(
            lambda: (self.value(expression) or 0) >= count,
            lambda: f"{count} x up of {namespace}/{job}; targets: {self.targets()}",
            TARGET_SECONDS,
        )

    def wait_firing(self, name: str, **labels: str) -> dict[str, str]:
        """Wait until this alert fires with these labels; all labels that it has."""

        def firing() -> dict[str, str] | None:
            wanted = {"alertname": name, **labels}.items()
            fires = (alert["labels"] for alert in self.alerts() if alert["state"] == "firing")
            return next((found for found in fires if wanted <= found.items()), None)

        return wait_for(firing, lambda: f"{name} {labels} in {self.alerts()}", FIRING_SECONDS)

    def targets(self) -> list[str]:
        """Each active target with its labels, its health and its last error."""
        found = self._get("targets", {"state": "active"})["activeTargets"]
        return [
            f"{target['scrapeUrl']} {target['labels']} {target['health']} {target['lastError']}"
            for target in found
        ]

    def is_ready(self) -> bool:
        """Whether it answers queries."""
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _get(self, path: str, asked: Mapping[str, str]) -> Any:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(asked)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{dict(asked)}: {error.read().decode()}") from error


def built(name: str) -> Path:
    """The binary of one of the tools of monitoring; ends the test where it is not built."""
    tool = next(tool for tool in MONITORING if tool.name == name)
    if missing([tool]):
        required_or_skipped(f"{name} not built: run `python -m tests.cluster.build`")
    return binary(tool)


@contextmanager
def started(
    folder: Path,
    scrape_configs: Sequence[Mapping[str, Any]],
    *,
    rules: Mapping[str, Any] | None = None,
) -> Iterator[Prometheus]:
    """A server with these scrape configurations and rules, by default the chart's; it ends here."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alerts.yaml").write_text(yaml.safe_dump(dict(rules or read_rules())))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(_configuration(scrape_configs)))
    prometheus = Prometheus(f"127.0.0.1:{free_port()}")
    command = [
        str(built("prometheus")),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={prometheus.address}",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as words:
        process = subprocess.Popen(command, stdout=words, stderr=words)

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        return prometheus.is_ready()

    try:
        wait_for(is_ready, lambda: log.read_text(), START_SECONDS)
        prometheus.started_at = time.time()
        yield prometheus
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def _configuration(scrape_configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    interval = f"{INTERVAL_SECONDS}s"
    times = {"scrape_interval": interval, "evaluation_interval": interval}
    return {
        "global": {**times, "scrape_timeout": interval},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [dict(config) for config in scrape_configs],
    }
