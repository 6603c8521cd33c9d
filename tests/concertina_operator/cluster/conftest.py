"""A control plane that knows the resources of jobs, for the tests of this folder."""

from contextlib import closing

import pytest

from concertina_operator.cluster.install import trainer_objects
from tests.concertina_operator.cluster.installed import apply_all, wait_in_force


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
