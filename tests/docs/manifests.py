"""The jobs that pages show: whole manifests, and fragments of a spec laid over the smallest job."""

from collections.abc import Iterator
from typing import Any

import yaml

from concertina_api.v1alpha1.job import JobSpec
from tests.docs.pages import Block

PROMETHEUS = "prometheus.yaml"
"""Title of configurations of Prometheus."""
_SPEC_FIELDS = {field.alias for field in JobSpec.model_fields.values()}
_SMALLEST = {
    "model": "my_package:Task",
    "samples": 1000,
    "batch": {"microBatchSize": 1, "initial": 1, "max": 1},
}


def jobs(block: Block) -> Iterator[dict[str, Any]]:
    """The jobs of a block; objects of other kinds and other files are not ours to judge."""
    if block.title == PROMETHEUS:
        return
    for document in yaml.safe_load_all(block.text):
        if document.get("kind") == "AdaptiveTrainingJob":
            yield document
        elif "kind" not in document:
            assert set(document) <= _SPEC_FIELDS, "a fragment holds fields of spec"
            yield {
                "apiVersion": "concertina.dev/v1alpha1",
                "kind": "AdaptiveTrainingJob",
                "metadata": {"name": "fragment"},
                "spec": _SMALLEST | document,
            }
