"""JSON schemas of all kinds that an API server has, as kubeconform reads them.

Made from its own OpenAPI document: nothing is fetched, and resource definitions are part of it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Schema = dict[str, Any]
LOCATION = "{{ .Group }}/{{ .ResourceKind }}_{{ .ResourceAPIVersion }}.json"
"""Where kubeconform finds a kind below the folder."""
_PREFIX = "#/definitions/"
_LOOSE = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["integer", "string"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["number", "string"]},
}
"""What the document calls text, and the server takes as a number too."""


def write_schemas(document: Schema, folder: Path) -> None:
    """Write one file for each kind; `document` is what the server has at /openapi/v2."""
    definitions = {
        name: _LOOSE.get(name) or _strict(schema)
        for name, schema in document["definitions"].items()
    }
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            # kubeconform takes the version for the group where there is none.
            group = kind["group"] or kind["version"]
            path = folder / group / f"{kind['kind'].lower()}_{kind['version']}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            needed = {each: definitions[each] for each in sorted(_needed(name, definitions))}
            path.write_text(json.dumps({"$ref": _PREFIX + name, "definitions": needed}))


def _strict(schema: Any) -> Any:
    """The schema in which a map with named fields has no others."""
    if isinstance(schema, list):
        return [_strict(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(inner) for key, inner in schema.items()}
    is_open = "additionalProperties" in schema or "x-kubernetes-preserve-unknown-fields" in schema
    if isinstance(schema.get("properties"), dict) and "type" in schema and not is_open:
        strict["additionalProperties"] = False
    return strict


def _needed(name: str, definitions: Schema) -> set[str]:
    """The definition and all that it refers to."""
    found, ahead = {name}, [name]
    while ahead:
        new = set(_references(definitions[ahead.pop()])) - found
        found |= new
        ahead += new
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.removeprefix(_PREFIX)
        schema = list(schema.values())
    if isinstance(schema, list):
        for inner in schema:
            yield from _references(inner)
