"""Draws both dashboards from a real run: `python -m tests.monitoring.pictures [folder]`.

It starts a cluster of one real node with the operator, lets the demo job train on it from one pod to
four beside a job that no node takes, scrapes all of it with a real Prometheus, asks that every query
of the dashboards, and draws what it answers to docs/pages/pictures. About five minutes on two cores.
With `--prometheus` it asks a server that there is about a job that it has scraped of late.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from concertina_operator.cluster.install import NAMESPACE
from concertina_operator.cluster.rights import OPERATOR
from tests.chart.helm import render
from tests.cluster.cluster import Cluster
from tests.cluster.fixtures import node_of_its_own
from tests.cluster.pods import REPOSITORY
from tests.e2e.kubelet.operators import Operator, install
from tests.e2e.kubelet.runs import KubeletRun, applied
from tests.e2e.kubelet.test_demo import document
from tests.monitoring.canvas import Canvas
from tests.monitoring.checks import wait_no_empty_queries
from tests.monitoring.dashboards import NAMES, Chosen, as_opened, digest, read_dashboard
from tests.monitoring.drawing import draw_caption, draw_panel
from tests.monitoring.prometheus import INTERVAL_SECONDS, Prometheus, started
from tests.monitoring.rules import read_rules, shortened
from tests.monitoring.scrape import scrape_configs, static_config
from tests.monitoring.series import Window, events, panel_series

PICTURES = REPOSITORY / "docs/pages/pictures"
DEADLINE_SECONDS = 600.0
CHECKPOINT_SECONDS = 30
"""The demo is over before its own interval has passed once."""
TOLD_SCRAPE_SECONDS = 5.0
"""The scrape interval as the data source is told it: longer rates are calmer."""
LOOK_BACK_SECONDS = 6 * 3600.0
PATIENCE_SECONDS = 60
"""How long an alert waits at most: a quarter of an hour would outlast the demo."""
MONITORS = {"monitoring": {"trainerMonitor": {"enabled": True}}}


def main(arguments: list[str] | None = None) -> None:
    """Draw what a server has scraped of a job; without one run the demo, and draw that."""
    asked = _parser().parse_args(arguments)
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.prometheus is not None:
        server = Prometheus(asked.prometheus.removeprefix("http://").rstrip("/"))
        what = f"job {asked.job} in namespace {asked.namespace}."
        chosen = {"namespace": asked.namespace, "job": asked.job}
        start, end = scraped(server, **chosen)
        draw(server, start=start, end=end, what=what, folder=asked.folder, **chosen)
        return
    with tempfile.TemporaryDirectory() as own, recorded(Path(own)) as (prometheus, run):
        draw_demo(prometheus, run, asked.folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.monitoring.pictures", description=__doc__
    )
    parser.add_argument("folder", nargs="?", type=Path, default=PICTURES)
    parser.add_argument("--prometheus", metavar="URL", help="a server to ask instead of the demo's")
    parser.add_argument("--namespace", default="default", help="of the job; default: %(default)s")
    parser.add_argument("--job", default="minimal", help="its name; default: %(default)s")
    return parser


@contextmanager
def recorded(folder: Path) -> Iterator[tuple[Prometheus, KubeletRun]]:
    """The demo on a node of its own with its own operator; all of it ends here."""
    with ExitStack() as stack:
        cluster = stack.enter_context(node_of_its_own())
        operator = Operator(install(cluster, folder), folder / "operator.log")
        stack.callback(operator.kill)
        operator.start()
        yield stack.enter_context(watched_demo(cluster, operator, folder))


@contextmanager
def watched_demo(
    cluster: Cluster, operator: Operator, folder: Path
) -> Iterator[tuple[Prometheus, KubeletRun]]:
    """A run of the demo that has completed, and the server that scraped it from its start.

    Every query of the dashboards has returned data by then, and an alert has fired.
    """
    with ExitStack() as stack:
        configs = scrape_configs(render(MONITORS), kubeconfig=cluster.kubeconfig)
        configs.append(static_config(address(operator), namespace=NAMESPACE, job=OPERATOR))
        rules = shortened(read_rules(), seconds=PATIENCE_SECONDS)
        prometheus = stack.enter_context(started(folder / "prometheus", configs, rules=rules))
        prometheus.wait_up(namespace=NAMESPACE, job=OPERATOR)
        waits = stack.enter_context(
            applied(cluster, operator, folder / "waits", unschedulable(), change=to_no_node)
        )
        run = stack.enter_context(applied(cluster, operator, folder / "run", demo()))
        run.deadline_seconds = DEADLINE_SECONDS
        run.wait_holds("Completed")
        prometheus.wait_firing("ConcertinaPodsPending", namespace=waits.namespace, job=waits.name)
        wait_no_empty_queries(prometheus, namespace=run.namespace, job=run.name)
        yield prometheus, run


def address(operator: Operator) -> str:
    """Where the operator says that it serves its metrics."""
    found = re.findall(r"serves health and metrics on port (\d+)", operator.text())
    return f"127.0.0.1:{found[-1]}"


def demo() -> dict[str, Any]:
    """The demo's manifest with checkpoints that it lives to see."""
    made = document()
    made["spec"]["checkpoint"] = {"everySeconds": CHECKPOINT_SECONDS}
    return made


def unschedulable() -> dict[str, Any]:
    """A job that waits for a node."""
    made = document()
    made["metadata"]["name"] = "waits-for-a-node"
    return made


def to_no_node(pod: dict[str, Any]) -> None:
    """Let a pod ask for a node that there is not."""
    pod["nodeSelector"] = {"concertina.dev/there-is-none": "true"}


def draw_demo(prometheus: Prometheus, run: KubeletRun, folder: Path) -> None:
    """Both pictures, from the first scrape until the demo is nearly done."""
    start = prometheus.started_at
    draw(
        prometheus,
        namespace=run.namespace,
        job=run.name,
        start=start,
        end=nearly_done(prometheus, run, start=start),
        what=f"one run of manifests/01-minimal.yaml with a checkpoint every {CHECKPOINT_SECONDS} s,"
        " on a node with a real kubelet, two CPU cores and imagined GPUs. Another job asks for a"
        " node that there is not.",
        folder=folder,
    )


def draw(
    prometheus: Prometheus,
    *,
    namespace: str,
    job: str,
    start: float,
    end: float,
    what: str,
    folder: Path,
) -> None:
    """Both pictures of this time, whose captions say of what."""
    step = max(float(INTERVAL_SECONDS), (end - start) // 250)
    chosen = Chosen(
        namespace=namespace,
        job=job,
        range_seconds=end - start,
        step_seconds=step,
        scrape_seconds=TOLD_SCRAPE_SECONDS,
    )
    for name in NAMES:
        window = Window(start=start, end=end, chosen=as_opened(name, chosen))
        dashboard = read_dashboard(name)
        canvas = Canvas(dashboard, start=start, end=end)
        found = events(prometheus, name, window)
        for panel in dashboard["panels"]:
            series = panel_series(prometheus, name, panel, window)
            draw_panel(canvas, panel, series, found)
        words = "   |   ".join(event.words for event in found)
        draw_caption(
            canvas,
            [
                f"charts/concertina/files/dashboards/{name}.json over {what}",
                "Drawn with matplotlib from what a real Prometheus answers to the dashboard's own queries;"
                " this is not Grafana's server, which draws the same queries in the same grid.",
                f"Annotations: {words}" if words else "",
            ],
        )
        canvas.save(folder / f"{name}.png", digest=digest(name))


def nearly_done(prometheus: Prometheus, run: KubeletRun, *, start: float) -> float:
    """When the job had a twentieth of its samples to go: a moment that people look at dashboards."""
    (found,) = prometheus.query_range(
        f'concertina_job_samples{{job="{run.name}"}} < 0.95 * concertina_job_samples_target',
        start=start,
        end=time.time(),
        step_seconds=INTERVAL_SECONDS,
    )
    return float(found["values"][-1][0])


def scraped(prometheus: Prometheus, *, namespace: str, job: str) -> tuple[float, float]:
    """When the server first and last heard of a job, in the last LOOK_BACK_SECONDS."""
    now = time.time()
    found = prometheus.query_range(
        f'concertina_job_samples{{namespace="{namespace}", job="{job}"}}',
        start=now - LOOK_BACK_SECONDS,
        end=now,
        step_seconds=LOOK_BACK_SECONDS / 10_000,
    )
    times = [moment for series in found for moment, _ in series["values"]]
    assert times, f"{prometheus.address} knows no job {job} in namespace {namespace}"
    return min(times), max(times)


if __name__ == "__main__":
    main()
