"""The API reference: every field of the resources, from the schemas that the API server gets.

Called by pages.py. Pure: the schemas come from the models (concertina_operator.cluster.crd).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from concertina_operator.cluster.crd import custom_resource_definitions
from docs.reference.markdown import code, codes, page, table

Schema = Mapping[str, Any]

_INTRODUCTION: Final = """\
Group `concertina.dev`, version `v1alpha1`, three namespaced kinds. You write an
[AdaptiveTrainingJob](#adaptivetrainingjob); the operator and the pods write the other two, which people
only read.

- Within `v1alpha1` fields are only added, and every added field is optional.
- Unknown fields are refused by `concertina run` and `concertina validate`, and reported by `kubectl apply`.
- What a bound or a rule forbids, the API server refuses in the words of this page."""
_ABOUT: Final = {
    "AdaptiveTrainingJob": "A training job. Short name `atj`.",
    "TrainingMembership": "Who trains now, in rank order. The operator writes one per job, of the"
    " same name; pods watch it.",
    "TrainingReport": "What one pod tells the operator. Each pod writes its own, of its own name;"
    " the operator trusts none of it.",
}
_VALIDATIONS: Final = "x-kubernetes-validations"
_FIXED: Final = " is fixed once the job has started"
_LARGEST: Final = 2**53 - 1
"""A bound that only says: an integer that JSON carries everywhere."""


def api_page() -> str:
    """The whole page."""
    parts = [part for one in custom_resource_definitions() for part in _kind(one)]
    return page("API reference", _INTRODUCTION, *parts)


def _kind(definition: Schema) -> Iterator[str]:
    kind = definition["spec"]["names"]["kind"]
    (version,) = definition["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    yield f"## {kind}"
    yield _ABOUT[kind]
    yield f"`kubectl get` prints {codes(_columns(version))}."
    if scale := version.get("subresources", {}).get("scale"):
        yield (
            f"`kubectl scale` and autoscalers set {code(scale['specReplicasPath'][1:])}, read"
            f" {code(scale['statusReplicasPath'][1:])}, and find the pods by"
            f" {code(scale['labelSelectorPath'][1:])}."
        )
    yield _rules(schema)
    for name in ("spec", "status"):
        if name in schema["properties"]:
            yield from _sections(schema["properties"][name], path=name, kind=kind)


def _columns(version: Schema) -> Iterator[str]:
    for column in version["additionalPrinterColumns"]:
        wide = " (-o wide)" if column.get("priority") else ""
        yield f"{column['name']}{wide}"


def _sections(schema: Schema, *, path: str, kind: str) -> Iterator[str]:
    """The object at `path` as a table, and then the objects inside it."""
    yield f"### {path} {{ #{_anchor(kind, path)} }}"
    yield schema.get("description", "")
    rows = [
        (
            code(name),
            _type(inner, kind=kind, path=_inside(path, name, inner)),
            _default(name, inner, schema),
            inner.get("description", ""),
        )
        for name, inner in schema["properties"].items()
    ]
    yield table(("field", "type", "default", "meaning"), rows)
    yield _rules(schema)
    for name, inner in schema["properties"].items():
        if "properties" in (deeper := _element(inner)) and not _is_free(inner):
            yield from _sections(deeper, path=_inside(path, name, inner), kind=kind)


def _rules(schema: Schema) -> str:
    """What the API server refuses, in its words; fields that are all fixed in the same way as one."""
    words = list(dict.fromkeys(rule["message"] for rule in schema.get(_VALIDATIONS, ())))
    fixed = [said.removesuffix(_FIXED) for said in words if said.endswith(_FIXED)]
    told = [said for said in words if not said.endswith(_FIXED)]
    told += [f"{codes(fixed)}: each{_FIXED}"] if fixed else []
    return (
        "The API server refuses, in these words:\n\n" + "\n".join(f"- {said}" for said in told)
        if told
        else ""
    )


def _type(schema: Schema, *, kind: str, path: str) -> str:
    if _is_free(schema):
        return "object, free-form"
    if schema["type"] == "array":
        most = f", at most {schema['maxItems']:,}" if "maxItems" in schema else ""
        return f"list of {_type(schema['items'], kind=kind, path=path)}{most}"
    if schema["type"] == "object":
        if "additionalProperties" in schema:
            return f"map to {_type(schema['additionalProperties'], kind=kind, path=path)}"
        return f"[object](#{_anchor(kind, path)})"
    if "enum" in schema:
        return codes(schema["enum"])
    return f"{schema['type']}{_bounds(schema)}"


def _bounds(schema: Schema) -> str:
    if schema["type"] == "string":
        length = f", up to {schema['maxLength']:,} characters" if "maxLength" in schema else ""
        pattern = f", {code(schema['pattern'])}" if "pattern" in schema else ""
        return length + pattern
    low, high = schema.get("minimum"), schema.get("maximum")
    above = "above" if schema.get("exclusiveMinimum") else "from"
    below = "below" if schema.get("exclusiveMaximum") else "to"
    told = f" {above} {low:,}" if low is not None else ""
    return told + (f" {below} {high:,}" if high is not None and high < _LARGEST else "")


def _default(name: str, schema: Schema, outer: Schema) -> str:
    if name in outer.get("required", ()):
        return "required"
    if "default" not in schema or isinstance(schema["default"], dict):
        return ""
    value = schema["default"]
    return code(f"{value:g}" if isinstance(value, float) else json.dumps(value))


def _element(schema: Schema) -> Schema:
    """What a list holds, or the value itself."""
    return schema["items"] if schema["type"] == "array" else schema


def _is_free(schema: Schema) -> bool:
    return "properties" not in schema and "x-kubernetes-preserve-unknown-fields" in schema


def _inside(path: str, name: str, schema: Schema) -> str:
    return f"{path}.{name}" + ("[]" if schema["type"] == "array" else "")


def _anchor(kind: str, path: str) -> str:
    return f"{kind.lower()}-{path.replace('.', '-').replace('[]', '')}"
