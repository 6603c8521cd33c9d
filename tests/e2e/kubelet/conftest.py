"""One cluster with one operator for all tests of this folder."""

from contextlib import closing
from pathlib import Path

import pytest

from concertina_api.v1alpha1 import API_VERSION
from concertina_operator.cluster import paths
from tests.cluster.fixtures import required_or_skipped
from tests.e2e.kubelet.operators import Operator, install

FOLDER = Path(__file__).parent
LAST = FOLDER / "test_rights_used.py"
COLLECTED = pytest.StashKey[list[pytest.Item]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Let the tests that judge what all others did come after them."""
    config.stash[COLLECTED] = [item for item in items if item.path.parent == FOLDER]
    items.sort(key=lambda item: item.path == LAST)


@pytest.fixture(scope="session")
def whole_folder(request):
    """Skips a test unless at least the short form of all tests of this folder is chosen."""
    chosen = set(request.session.items)
    collected = request.config.stash[COLLECTED]
    left_out = [
        item for item in collected if item not in chosen and not item.get_closest_marker("matrix")
    ]
    files = {item.path for item in collected}
    is_cut = any("::" in argument for argument in request.config.args)
    if is_cut or left_out or files != set(FOLDER.glob("test_*.py")):
        pytest.skip("judged when all tests of the folder run")


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


@pytest.fixture(scope="session")
def collector(node_cluster, operator):
    """The garbage collector, which ends a job's pods, knows jobs: in a new cluster after a while.

    Twice a minute it looks for kinds that it does not know yet.
    """
    owner = {"apiVersion": API_VERSION, "kind": "AdaptiveTrainingJob", "name": "x", "uid": "x"}
    orphan = {
        "apiVersion": API_VERSION,
        "kind": "TrainingMembership",
        "metadata": {"name": "orphan", "ownerReferences": [owner]},
        "spec": {"round": 0},
    }
    with closing(node_cluster.admin()) as api:
        api.create(paths.memberships("default"), orphan)
        api.wait_gone(paths.memberships("default", "orphan"), seconds=120)
