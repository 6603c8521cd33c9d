"""The jobs of the shipped manifests, as documents."""

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent.parent / "manifests"


def shipped_jobs() -> list[dict[str, Any]]:
    """By the order of the manifests."""
    documents = (
        document
        for path in sorted(FOLDER.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    )
    return [document for document in documents if document["kind"] == "AdaptiveTrainingJob"]
