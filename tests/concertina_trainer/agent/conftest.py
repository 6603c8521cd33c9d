from contextlib import ExitStack

import pytest

from concertina_trainer.agent.api_server import Access, ApiServer
from tests.concertina_operator.cluster.conftest import resources
from tests.concertina_trainer.agent.kubernetes import NAMESPACE, make_certificate, running
from tests.concertina_trainer.agent.pods import Run

__all__ = ["resources"]


@pytest.fixture
def run(tmp_path):
    with ExitStack() as stack:
        yield Run(tmp_path, stack)


@pytest.fixture
def run_of_two(tmp_path):
    """A run whose pods have two workers each."""
    with ExitStack() as stack:
        yield Run(tmp_path, stack, workers=2)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def kubernetes(tmp_path, certificate):
    """A server that speaks like the API server."""
    with running(tmp_path, certificate) as server:
        yield server


@pytest.fixture
def api(kubernetes):
    """A pod's client of it."""
    return ApiServer(
        Access(
            host="127.0.0.1",
            port=kubernetes.port,
            namespace=NAMESPACE,
            credentials=kubernetes.credentials,
        ),
        request_seconds=5,
    )
