"""A control plane that knows the resources of jobs, and an operator on it, for this folder's tests."""

from contextlib import ExitStack, closing

import pytest

from concertina_operator.cluster.install import trainer_objects
from tests.cluster.fixtures import fresh_namespace
from tests.concertina_operator.cluster.installed import apply_all, wait_in_force
from tests.concertina_operator.cluster.processes import operator_kubeconfig, operator_process
from tests.concertina_operator.cluster.trainers import Trainers, prepare_node


@pytest.fixture(scope="session")
def resources(control_plane, tmp_path_factory):
    """The control plane with resource definitions, the rights of trainers and the policy."""
    with closing(control_plane.admin()) as api:
        apply_all(api, trainer_objects())
    wait_in_force(control_plane, tmp_path_factory.mktemp("resources"))
    return control_plane


@pytest.fixture
def api(resources):
    """An administrator's connection."""
    with closing(resources.admin()) as connection:
        yield connection


@pytest.fixture(scope="session")
def served(resources, tmp_path_factory):
    """A namespace whose jobs an operator serves, a process under its own rights."""
    folder = tmp_path_factory.mktemp("operator")
    with closing(resources.admin()) as api, fresh_namespace(resources) as namespace:
        prepare_node(api)
        kubeconfig = operator_kubeconfig(resources, api, namespace, folder / "kubeconfig")
        with operator_process(kubeconfig, namespace, folder / "log"):
            yield namespace


@pytest.fixture
def start(resources, api, namespace, tmp_path):
    """Starts replicas in the namespace of the test, by a name for their logs."""
    prepare_node(api)
    kubeconfig = operator_kubeconfig(resources, api, namespace, tmp_path / "kubeconfig")
    with ExitStack() as stack:

        def replica(name, *arguments, **variables):
            process = operator_process(
                kubeconfig, namespace, tmp_path / name, *arguments, variables=variables
            )
            return stack.enter_context(process)

        yield replica


@pytest.fixture
def crew(api, served, request):
    """Makes the trainers of a job that is named after the test; its objects go in the end."""
    test = request.node.name.removeprefix("test_").replace("_", "-").split("[")[0]
    made = []

    def make(suffix=""):
        name = f"{test[:40].strip('-')}{suffix}"
        made.append(Trainers(api=api, namespace=served, job=name))
        return made[-1]

    yield make
    for trainers in made:
        api.delete(f"{trainers.group}/adaptivetrainingjobs/{trainers.job}")
        for pod in trainers.pods():
            api.delete(f"/api/v1/namespaces/{served}/pods/{pod}", gracePeriodSeconds=0)


@pytest.fixture
def trainers(crew):
    """The trainers of the test's only job."""
    return crew()
