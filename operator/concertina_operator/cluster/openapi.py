"""Turns a pydantic model into a structural OpenAPI v3 schema, as a custom resource wants it.

Called by crd.py. Pure: no I/O, no clock. pydantic writes JSON Schema 2020-12; the API server takes
a subset of OpenAPI 3.0 in which everything is inline, every value has one type and null is told by
its absence. What the subset cannot say is a ValueError here, never a schema that says less.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_DROPPED = frozenset({"title", "$defs", "default", "propertyNames", "additionalProperties"})
"""Keywords that are turned into something else, or say nothing that the API server wants."""
_KEPT = frozenset(
    {
        "description",
        "enum",
        "format",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "pattern",
        "required",
        "type",
    }
)
_DESCRIPTION = frozenset({"description"})


def structural_schema(model: type[BaseModel]) -> Schema:
    """The schema of the objects that `model` reads, defaults included.

    Raises ValueError, naming the place, for what a structural schema cannot express.
    """
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _Conversion(definitions=raw.get("$defs", {})).of(raw, place=model.__name__)


def without_defaults(schema: Mapping[str, Any]) -> Schema:
    """The same schema for objects in which what is absent stays absent."""
    bare = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in bare:
        bare["properties"] = {
            name: without_defaults(inner) for name, inner in bare["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if key in bare:
            bare[key] = without_defaults(bare[key])
    return bare


class _Conversion:
    """One walk through a JSON schema and the definitions that it refers to."""

    def __init__(self, *, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions

    def of(self, schema: Schema, *, place: str, inside: tuple[str, ...] = ()) -> Schema:
        """The structural form of one place; `inside` are the definitions that lead there."""
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[1]
            if name in inside:
                raise ValueError(f"{place}: {name} contains itself, a structural schema cannot")
            target = {**self._definitions[name], **_without(schema, "$ref")}
            return self.of(target, place=place, inside=(*inside, name))
        if "anyOf" in schema:
            return self._optional(schema, place=place, inside=inside)

        result: Schema = {}
        for keyword, value in schema.items():
            if keyword in _KEPT or keyword.startswith("x-kubernetes-"):
                result[keyword] = value
            elif keyword == "const":
                result["enum"] = [value]
            elif keyword in ("exclusiveMinimum", "exclusiveMaximum"):
                result[keyword[9:].lower()] = value
                result[keyword] = True
            elif keyword == "properties":
                result[keyword] = {
                    name: self.of(inner, place=f"{place}.{name}", inside=inside)
                    for name, inner in value.items()
                }
            elif keyword == "items":
                result[keyword] = self.of(value, place=f"{place}[]", inside=inside)
            elif keyword not in _DROPPED:
                raise ValueError(f"{place}: {keyword} has no form in a structural schema")
        if "type" not in result:
            raise ValueError(f"{place}: a structural schema gives every value a type")
        result |= self._values_of_a_map(schema, place=place, inside=inside)
        return result | _default(schema, result)

    def _optional(self, schema: Schema, *, place: str, inside: tuple[str, ...]) -> Schema:
        """`X | None`: an absent field means None, null itself is kept only beside a default."""
        branches = [branch for branch in schema["anyOf"] if branch.get("type") != "null"]
        if len(branches) != 1 or len(branches) == len(schema["anyOf"]):
            raise ValueError(f"{place}: a structural schema has no unions")
        result = self.of({**branches[0], **_without(schema, "anyOf")}, place=place, inside=inside)
        return {**result, "nullable": True} if "default" in result else result

    def _values_of_a_map(self, schema: Schema, *, place: str, inside: tuple[str, ...]) -> Schema:
        """A map from strings: the schema of its values, and the bound of its keys as a rule."""
        values = schema.get("additionalProperties")
        if "properties" in schema or values in (None, True, False):
            return {}
        result: Schema = {
            "additionalProperties": self.of(values, place=f"{place}{{}}", inside=inside)
        }
        longest = schema.get("propertyNames", {}).get("maxLength")
        if longest is not None:
            result["x-kubernetes-validations"] = [
                {
                    "rule": f"self.all(key, size(key) <= {longest})",
                    "message": f"a key has at most {longest} characters",
                }
            ]
        return result


def _default(schema: Schema, result: Schema) -> Schema:
    """The default, where there is one to say: null, an empty list and an empty map are absence."""
    value = _present(schema.get("default"))
    if value is None or (value in ([], {}) and "properties" not in result):
        return {}
    return {"default": value}


def _present(value: Any) -> Any:
    """A default without what is absent in it. Rules see it as it stands, so it is complete."""
    if not isinstance(value, dict):
        return value
    inner = {name: _present(entry) for name, entry in value.items()}
    return {name: entry for name, entry in inner.items() if entry not in (None, [], {})}


def _without(schema: Schema, keyword: str) -> Schema:
    return {key: value for key, value in schema.items() if key != keyword}
