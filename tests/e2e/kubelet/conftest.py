"""One cluster with one operator for all tests of this folder."""

import pytest

from tests.cluster.fixtures import required_or_skipped
from tests.e2e.kubelet.operators import Operator, install


@pytest.fixture(scope="session")
def operator(node_cluster, tmp_path_factory):
    """The operator, which leads; a test that ends it starts it again."""
    if node_cluster.layout is None:
        required_or_skipped("pods mount this machine's files: the node must be on this machine")
    folder = tmp_path_factory.mktemp("operator")
    operator = Operator(install(node_cluster, folder), folder / "operator.log")
    operator.start()
    yield operator
    operator.kill()
