"""What becomes of each keyword that pydantic writes."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import AwareDatetime, BaseModel, Field, create_model

from concertina_operator.cluster.openapi import structural_schema, without_defaults


class Colour(StrEnum):
    RED = "Red"
    BLUE = "Blue"


class Inner(BaseModel):
    size: int = 3
    note: str | None = None
    tags: tuple[str, ...] = ()


class Tree(BaseModel):
    children: tuple["Tree", ...] = ()


def field_of(annotation, default=...):
    """The schema of one field of a model."""
    model = create_model("Outer", field=(annotation, default))
    return structural_schema(model)["properties"]["field"]


@pytest.mark.parametrize(
    ("annotation", "default", "want_schema"),
    [
        pytest.param(int, ..., {"type": "integer"}, id="a plain type"),
        pytest.param(int, 3, {"type": "integer", "default": 3}, id="a default"),
        pytest.param(bool, False, {"type": "boolean", "default": False}, id="false is a default"),
        pytest.param(int | None, None, {"type": "integer"}, id="None is absence"),
        pytest.param(
            int | None, 600, {"type": "integer", "default": 600, "nullable": True},
            id="null beside a default",
        ),
        pytest.param(
            Annotated[float, Field(gt=0, lt=1)], ...,
            {"type": "number", "minimum": 0, "exclusiveMinimum": True,
             "maximum": 1, "exclusiveMaximum": True},
            id="open bounds",
        ),
        pytest.param(
            Annotated[int, Field(ge=1, le=9)] | None, None,
            {"type": "integer", "minimum": 1, "maximum": 9}, id="bounds of what may be None",
        ),
        pytest.param(
            Literal["x"], ..., {"type": "string", "enum": ["x"]}, id="a literal is an enum of one"
        ),
        pytest.param(
            Colour, Colour.RED, {"type": "string", "enum": ["Red", "Blue"], "default": "Red"},
            id="an enum, inlined",
        ),
        pytest.param(
            AwareDatetime | None, None, {"type": "string", "format": "date-time"}, id="a time"
        ),
        pytest.param(
            Annotated[tuple[int, ...], Field(max_length=4)], (),
            {"type": "array", "items": {"type": "integer"}, "maxItems": 4},
            id="an empty list is absence",
        ),
        pytest.param(
            dict[str, int], ..., {"type": "object", "additionalProperties": {"type": "integer"}},
            id="a map",
        ),
        pytest.param(
            Annotated[dict[Annotated[str, Field(max_length=8)], int], Field(max_length=2)], ...,
            {
                "type": "object", "maxProperties": 2, "additionalProperties": {"type": "integer"},
                "x-kubernetes-validations": [
                    {"rule": "self.all(key, size(key) <= 8)",
                     "message": "a key has at most 8 characters"}
                ],
            },
            id="bounded keys are a rule",
        ),
        pytest.param(
            Annotated[Mapping[str, Any],
                      Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})],
            ..., {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            id="free-form",
        ),
        pytest.param(
            Inner, Inner(),
            {
                "type": "object", "default": {"size": 3},
                "properties": {
                    "size": {"type": "integer", "default": 3},
                    "note": {"type": "string"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
            },
            id="a default is complete and holds no null",
        ),
    ],
)  # fmt: skip
def test_says_it_as_an_api_server_wants_it(annotation, default, want_schema):
    assert field_of(annotation, default) == want_schema


def test_the_description_of_a_field_goes_before_the_one_of_its_type():
    class Documented(BaseModel):
        """Of the type."""

    class Outer(BaseModel):
        plain: Documented
        told: Annotated[Documented, Field(description="Of the field.")]

    fields = structural_schema(Outer)["properties"]

    assert fields["plain"]["description"] == "Of the type."
    assert fields["told"]["description"] == "Of the field."


@pytest.mark.parametrize(
    ("annotation", "want_message"),
    [
        pytest.param(int | str, r"Outer\.field: .*no unions", id="a union"),
        pytest.param(tuple[int, str], r"Outer\.field: prefixItems has no form", id="a tuple"),
        pytest.param(Any, r"Outer\.field: .*gives every value a type", id="anything"),
        pytest.param(Tree, r"Outer\.field\.children\[\]: Tree contains itself", id="recursion"),
        pytest.param(set[int], r"Outer\.field: uniqueItems has no form", id="a set"),
    ],
)
def test_refuses_what_a_structural_schema_cannot_say(annotation, want_message):
    with pytest.raises(ValueError, match=want_message):
        field_of(annotation)


def test_without_defaults_what_is_absent_stays_absent():
    class Outer(BaseModel):
        inner: Inner = Inner()
        many: tuple[Inner, ...] = ()
        named: dict[str, Inner] = {}

    bare = without_defaults(structural_schema(Outer))

    assert "default" not in str(bare)
    assert bare["properties"]["many"]["items"]["properties"]["size"] == {"type": "integer"}
