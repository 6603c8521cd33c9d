"""Keeps a pod off nodes, beside what its template says of nodes. Called by pod.py.

Pure: no I/O, no clock. By name as a field, not by the label `kubernetes.io/hostname`, which is
another name on some nodes. The API server takes one name in each requirement, and lets one of the
terms suffice: so each term gets a requirement for each node.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_TERMS: Final = "nodeSelectorTerms"


def kept_off(affinity: Any, nodes: Iterable[str]) -> Any:
    """The affinity of a pod with these nodes left out; one that is malformed is left to the server."""
    unwanted = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    if not unwanted:
        return affinity
    whole = _part(affinity)
    node_part = _part(whole.get("nodeAffinity") if whole is not None else None)
    required = _part(node_part.get(_REQUIRED) if node_part is not None else None)
    terms = required.get(_TERMS) or [] if required is not None else None
    if whole is None or node_part is None or required is None or not isinstance(terms, list):
        return affinity
    merged = [_merged(term, unwanted) for term in terms] or [{"matchFields": unwanted}]
    return {
        **whole,
        "nodeAffinity": {**node_part, _REQUIRED: {**required, _TERMS: merged}},
    }


def _merged(term: Any, unwanted: list[dict[str, Any]]) -> Any:
    """The term with the requirements; an empty one matches no node, and stays like that."""
    if not isinstance(term, Mapping) or not term:
        return term
    fields = term.get("matchFields") or []
    return {**term, "matchFields": [*fields, *unwanted]} if isinstance(fields, list) else term


def _part(value: Any) -> Mapping[str, Any] | None:
    """A part of the affinity; empty where it is not there, None where it is none."""
    if value is None:
        return {}
    return value if isinstance(value, Mapping) else None
