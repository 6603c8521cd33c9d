"""Fixtures for all tests."""

from tests.cluster.fixtures import control_plane, namespace, node_cluster, node_namespace

__all__ = ["control_plane", "namespace", "node_cluster", "node_namespace"]
