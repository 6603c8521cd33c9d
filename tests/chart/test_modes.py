"""A release that serves one namespace and shows its metrics to those alone who have the token."""

import base64
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from concertina_operator.cluster import paths
from concertina_operator.cluster.rights import OPERATOR
from tests.chart.release import Release, image_values, monitoring_kinds, released
from tests.chart.trainers import growing_job, waiting_job
from tests.cluster.api import ApiFailure
from tests.cluster.fixtures import fresh_namespace
from tests.e2e.kubelet.runs import KubeletRun
from tests.images.images import import_image
from tests.monitoring.prometheus import started
from tests.monitoring.scrape import scrape_configs

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(600)]
TOKEN = "let-prometheus-in"
TOKEN_SECRET, TLS_SECRET = "metrics-token", "metrics-tls"
METRICS_PORT = 8443


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A release in which a job has trained, beside a namespace that it does not serve."""

    release: Release
    run: KubeletRun
    elsewhere: dict[str, Any]
    """The job of the other namespace, as it was when the first had completed."""
    said: dict[str | None, int]
    """What /metrics answers to who shows this token."""


@pytest.fixture(scope="module")
def served(node_cluster, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("modes")
    with (
        monitoring_kinds(node_cluster),
        fresh_namespace(node_cluster) as team,
        fresh_namespace(node_cluster) as other,
        released(node_cluster) as release,
    ):
        import_image(node_cluster, images.operator)
        import_image(node_cluster, images.trainer)
        _create_secrets(release, folder)
        release.install(
            {
                **image_values(images.operator, images.trainer),
                "watchNamespace": team,
                "metrics": {
                    "authentication": {"enabled": True, "secretName": TOKEN_SECRET},
                    "tls": {"secretName": TLS_SECRET},
                },
                "monitoring": {"operatorMonitor": {"enabled": True}},
            }
        )
        release.api.create(paths.jobs(other), waiting_job(images.trainer))
        with _trained(release, team, images.trainer, folder / "run") as run:
            configs = scrape_configs(
                release.objects(), kubeconfig=node_cluster.kubeconfig, token=TOKEN
            )
            with started(folder / "prometheus", configs) as prometheus:
                prometheus.wait_up(namespace=release.namespace, job=OPERATOR, count=2)
            yield Served(
                release=release,
                run=run,
                elsewhere=release.api.get(paths.jobs(other, "waiting")),
                said={token: _answer(release, token) for token in (TOKEN, "another", None)},
            )


@contextmanager
def _trained(release: Release, namespace: str, image, folder: Path) -> Iterator[KubeletRun]:
    run = KubeletRun(
        release.cluster,
        release,
        namespace=namespace,
        folder=folder,
        document=growing_job(image, folder),
    )
    with closing(run.api):
        run.wait_steps(3, workers=2)
        run.finish()
        yield run
        run.delete()


def _create_secrets(release: Release, folder: Path) -> None:
    key, certificate = folder / "tls.key", folder / "tls.crt"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={OPERATOR}"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    tls = {"tls.crt": certificate, "tls.key": key, "ca.crt": certificate}
    secrets = {
        TOKEN_SECRET: {"token": TOKEN.encode()},
        TLS_SECRET: {name: path.read_bytes() for name, path in tls.items()},
    }
    for name, content in secrets.items():
        data = {key: base64.b64encode(value).decode() for key, value in content.items()}
        path = f"/api/v1/namespaces/{release.namespace}/secrets"
        release.api.create(path, {"metadata": {"name": name}, "data": data})


def _answer(release: Release, token: str | None) -> int:
    """The HTTP status of /metrics of an operator."""
    pod = next(iter(release.replicas().values()))
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = f"https://{pod['status']['podIP']}:{METRICS_PORT}/metrics"
    request = urllib.request.Request(url, headers=headers)
    context = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_jobs_of_its_namespace_train_to_their_end(served):
    assert served.run.status()["state"] == "Completed"
    assert served.run.discarded() == []


def test_jobs_of_other_namespaces_are_not_looked_at(served):
    assert "status" not in served.elsewhere


def test_operators_and_trainers_are_refused_nothing(served, node_cluster):
    accounts = {
        f"system:serviceaccount:{served.release.namespace}:{OPERATOR}",
        f"system:serviceaccount:{served.run.namespace}:default",
    }
    audited = [e for e in node_cluster.audit_events() if e["user"].get("username") in accounts]
    assert {event["user"]["username"] for event in audited} == accounts
    assert [e for e in audited if e.get("responseStatus", {}).get("code") == 403] == []


def test_nothing_is_granted_to_the_cluster_as_a_whole(served):
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    with pytest.raises(ApiFailure, match="not found"):
        served.release.api.get(f"{path}/{OPERATOR}")


def test_metrics_are_for_who_has_the_token(served):
    assert served.said == {TOKEN: 200, "another": 401, None: 401}
