"""A real Prometheus with what the chart's monitors and rules make of it, on targets that say anything.

Discovery is the only part that is not the cluster's: the labels of pods are given with the targets.
"""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from concertina_operator.cluster.rights import OPERATOR
from tests.chart.helm import render
from tests.monitoring.checks import empty_queries
from tests.monitoring.prometheus import started
from tests.monitoring.rules import read_rules, shortened
from tests.monitoring.scrape import scrape_configs
from tests.monitoring.test_scrape import BOTH

LIAR = 'concertina_loss{namespace="finance",job="payroll",pod="payroll-0"} 7\n'
FLEET = """\
concertina_operator_leader 1
concertina_job_state{namespace="research",job="big",state="Training"} 1
concertina_job_pods_wanted{namespace="research",job="big"} 4
concertina_job_pods_ready{namespace="research",job="big"} 3
"""
TRAINER_POD = {
    "__meta_kubernetes_namespace": "research",
    "__meta_kubernetes_pod_name": "big-0",
    "__meta_kubernetes_pod_phase": "Running",
    "__meta_kubernetes_pod_container_name": "trainer",
    "__meta_kubernetes_pod_container_port_name": "metrics",
    "__meta_kubernetes_pod_label_concertina_dev_job": "big",
    "__meta_kubernetes_pod_labelpresent_concertina_dev_job": "true",
}
OPERATOR_POD = {
    "__meta_kubernetes_namespace": "concertina-system",
    "__meta_kubernetes_pod_name": "concertina-operator-0",
    "__meta_kubernetes_pod_container_name": "operator",
    "__meta_kubernetes_endpointslice_port_name": "metrics",
    "__meta_kubernetes_service_label_app_kubernetes_io_name": OPERATOR,
    "__meta_kubernetes_service_label_app_kubernetes_io_instance": "concertina",
}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    configs = scrape_configs(render(BOTH), kubeconfig=Path("kubeconfig"))
    with serving(LIAR) as trainer, serving(FLEET) as operator:
        for config in configs:
            del config["kubernetes_sd_configs"]
            is_trainer = config["job_name"].startswith("PodMonitor")
            address, labels = (trainer, TRAINER_POD) if is_trainer else (operator, OPERATOR_POD)
            # A pod that no monitor selects is beside it.
            config["static_configs"] = [
                {"targets": [address], "labels": labels},
                {"targets": [address], "labels": {"__meta_kubernetes_pod_name": "stranger"}},
            ]
        rules = shortened(read_rules(), seconds=1)
        folder = tmp_path_factory.mktemp("prometheus")
        with started(folder, configs, rules=rules) as server:
            server.wait_up(namespace="research", job="big")
            server.wait_up(namespace="concertina-system", job=OPERATOR)
            yield server


def test_a_trainer_that_claims_to_be_another_job_is_itself(prometheus):
    (found,) = prometheus.query("concertina_loss")
    labels = {name: found["metric"].get(name) for name in ("namespace", "job", "pod")}
    assert labels == {"namespace": "research", "job": "big", "pod": "big-0"}
    assert [name for name in found["metric"] if name.startswith("exported_")] == []


def test_the_operator_speaks_for_jobs_and_for_itself(prometheus):
    assert prometheus.value('concertina_job_pods_wanted{namespace="research", job="big"}') == 4
    leader = f'concertina_operator_leader{{namespace="concertina-system", job="{OPERATOR}"}}'
    assert prometheus.value(leader) == 1


def test_what_no_monitor_selects_is_not_scraped(prometheus):
    assert prometheus.value("count(up)") == 2


def test_an_alert_fires_with_the_labels_of_the_job(prometheus):
    found = prometheus.wait_firing("ConcertinaPodsPending", namespace="research", job="big")
    assert found["severity"] == "warning"


def test_a_query_without_data_is_named(prometheus):
    found = empty_queries(prometheus, namespace="research", job="big")
    assert any(problem.startswith("job: Learning rate") for problem in found)
    with_data = "job: Loss", "job: Pods and workers: pods"
    assert not any(problem.startswith(with_data) for problem in found)


def test_a_variable_without_the_job_is_named(prometheus):
    found = empty_queries(prometheus, namespace="research", job="small")
    assert "job: variable job: small is not in ['big']" in found


@contextmanager
def serving(text):
    """The address of a target that says this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
