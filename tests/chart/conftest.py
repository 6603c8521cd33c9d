"""An API server that has what the values of tests/chart/values name."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from concertina_operator.cluster.install import trainer_objects
from tests.chart.monitoring_crds import monitoring_crds
from tests.chart.schemas import write_schemas
from tests.cluster.api import Api
from tests.cluster.cluster import Cluster, wait_for_namespace
from tests.concertina_operator.cluster.installed import apply_all, path_of

NAMESPACE = "chart-system"
TEAMS = ("team-a", "team-b", "2024")
ACCOUNTS = ("concertina", "1000", "concertina-operator", "concertina-operator-test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """It knows all kinds of the chart, and its namespaces are restricted."""

    cluster: Cluster
    api: Api
    namespace: str
    """Where a release would be."""
    schemas: Path
    """JSON schemas of its kinds."""


@pytest.fixture(scope="session")
def server(control_plane, tmp_path_factory):
    with closing(control_plane.admin()) as api:
        apply_all(api, [*trainer_objects(), *monitoring_crds()])
        namespaces = [a_namespace(name) for name in (NAMESPACE, *TEAMS)]
        apply_all(api, namespaces)
        for entry in namespaces:
            wait_for_namespace(api, entry["metadata"]["name"])
        for name in ACCOUNTS:
            path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
            api.create(path, {"metadata": {"name": name}})
        schemas = tmp_path_factory.mktemp("schemas")
        write_schemas(api.get("/openapi/v2"), schemas)
        yield Server(cluster=control_plane, api=api, namespace=NAMESPACE, schemas=schemas)
        for entry in [*monitoring_crds(), *namespaces]:
            api.delete(path_of(entry))


def a_namespace(name):
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": level}}
