"""Objects of an installation: where each lives in the API, and whether it does its work.

Called by install.py. Pure: no I/O, no clock.
"""

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]


def label(document: Document) -> str:
    """The object in words: its kind and its name, with the namespace if it has one."""
    metadata = document["metadata"]
    prefix = f"{metadata['namespace']}/" if "namespace" in metadata else ""
    return f"{document['kind']} {prefix}{metadata['name']}"


def path_of(document: Document) -> str:
    """Path of the object in the API; all kinds that are installed have regular plurals."""
    version, kind, metadata = document["apiVersion"], document["kind"], document["metadata"]
    group = f"/apis/{version}" if "/" in version else f"/api/{version}"
    scope = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    stem = kind.lower()
    plural = f"{stem[:-1]}ies" if stem.endswith("y") else f"{stem}s"
    return f"{group}{scope}/{plural}/{metadata['name']}"


def content_of(document: Document) -> Document:
    """What somebody wrote; without what the cluster itself says of the object."""
    metadata = {
        key: value
        for key, value in document["metadata"].items()
        if key not in ("generation", "managedFields", "resourceVersion")
    }
    return {**document, "metadata": metadata, "status": None}


def hindrance(document: Document) -> str | None:
    """Why an object of the cluster does not do its work yet; None when it does."""
    status = document.get("status") or {}
    if document["kind"] == "CustomResourceDefinition":
        return None if _condition(status, "Established") == "True" else "not established"
    if document["kind"] == "Deployment":
        return _unavailable(document, status)
    return None


def _unavailable(document: Document, status: Document) -> str | None:
    wanted = document["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < document["metadata"].get("generation", 0):
        return "not seen by its controller"
    # Replicas of an older version may be available too.
    available = min(status.get("availableReplicas", 0), status.get("updatedReplicas", 0))
    if available >= wanted:
        return None
    told = "; ".join(
        str(entry["message"])
        for entry in status.get("conditions") or ()
        if entry.get("status") != "True" and entry.get("message")
    )
    return f"{available} of {wanted} replicas available" + (f": {told}" if told else "")


def _condition(status: Document, name: str) -> str | None:
    entries = status.get("conditions") or ()
    return next((entry["status"] for entry in entries if entry["type"] == name), None)
