"""The demo under the eyes of a real Prometheus, and what people see of it then."""

import pytest

from tests.monitoring.dashboards import NAMES
from tests.monitoring.pictures import draw_demo, watched_demo

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def watched(node_cluster, operator, tmp_path_factory):
    """Of a run in which every query has returned data."""
    with watched_demo(node_cluster, operator, tmp_path_factory.mktemp("watched")) as found:
        yield found


def test_an_alert_of_a_job_that_no_node_takes_fires_and_none_of_the_demo_itself(watched):
    prometheus, _ = watched
    alerts = {
        (alert["labels"]["alertname"], alert["labels"].get("job"))
        for alert in prometheus.alerts()
        if alert["state"] == "firing"
    }
    assert ("ConcertinaPodsPending", "waits-for-a-node") in alerts
    assert {job for _, job in alerts} == {"waits-for-a-node"}


def test_each_resize_is_one_pause_of_the_job(watched):
    prometheus, run = watched
    selector = f'{{namespace="{run.namespace}", job="{run.name}"}}'
    counted = prometheus.value(f"sum(max_over_time(concertina_resizes_total{selector}[1h]))")
    assert counted == run.status()["resizes"]


def test_both_dashboards_are_drawn(watched, tmp_path):
    prometheus, run = watched
    draw_demo(prometheus, run, tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == sorted(NAMES)
