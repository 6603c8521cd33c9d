"""Fixtures for all tests."""

import pytest

from tests.cluster.fixtures import control_plane, namespace, node_cluster, node_namespace
from tests.images.fixtures import images

__all__ = ["control_plane", "images", "namespace", "node_cluster", "node_namespace"]

CLUSTERS = {"control_plane", "images", "node_cluster"}
"""Fixtures of clusters, and of what needs a node's tools; a test that starts one of its own says so
by the marker."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for a cluster, by whichever fixture."""
    for item in items:
        if CLUSTERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("cluster")
