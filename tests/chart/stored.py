"""Objects with every field that a definition has, and what of an object is lost. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
TEXTS = ("text", "True", "module:object")
"""One of them fits each pattern."""
RULES = {"NormTest": "eta", "NoiseScale": "fraction", "Ramp": "stages"}
"""Names of rules, and the field that each of them alone may have."""


def complete(schema: Schema) -> Any:
    """A value with every field of the schema, within its bounds."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        made = {name: complete(each) for name, each in schema.get("properties", {}).items()}
        if "additionalProperties" in schema:
            made["any"] = complete(schema["additionalProperties"])
        if schema.get("x-kubernetes-preserve-unknown-fields"):
            made["any"] = {"thing": [1, "two"]}
        return made
    if kind == "array":
        return [complete(schema["items"])]
    if kind == "integer":
        return schema.get("minimum", 1)
    if kind == "number":
        low = schema.get("minimum", 0)
        return (low + schema.get("maximum", low + 1)) / 2
    if kind == "boolean":
        return True
    if schema.get("format") == "date-time":
        return "2026-01-02T03:04:05.000000Z"
    return next(text for text in TEXTS if re.search(schema.get("pattern", ""), text))


def complete_jobs(definition: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Jobs that no operator here looks at, one for each rule; together they have every field."""
    for name, field in RULES.items():
        job = complete_object(definition, name=name.lower())
        spec = job["spec"]
        del spec["epochs" if name == "Ramp" else "samples"]
        for rule in (spec["batch"]["rule"], *spec["batch"]["shadowRules"]):
            rule["name"] = name
            for other in set(RULES.values()) - {field}:
                del rule[other]
        yield job


def complete_object(definition: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """An object of a definition."""
    spec = definition["spec"]
    (version,) = spec["versions"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    parts = {part: complete(properties[part]) for part in ("spec", "status") if part in properties}
    return {
        "apiVersion": f"{spec['group']}/{version['name']}",
        "kind": spec["names"]["kind"],
        "metadata": {"name": name},
        **parts,
    }


def lost(before: Any, after: Any, *, path: str = "") -> list[str]:
    """The fields and values that were there before and are not there after."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return [
            entry
            for name, value in before.items()
            for entry in (
                lost(value, after[name], path=f"{path}.{name}")
                if name in after
                else [f"{path}.{name}"]
            )
        ]
    return [] if before == after else [f"{path}: {before!r} is {after!r}"]


def fields(value: Any, *, path: str = "") -> set[str]:
    """The fields of an object, whatever their values; of a list those of all its entries."""
    if isinstance(value, Mapping):
        below = (fields(each, path=f"{path}.{name}") for name, each in value.items())
        return {path}.union(*below)
    if isinstance(value, list):
        return {path}.union(*(fields(each, path=path) for each in value))
    return {path}
