"""The base model and the bounded field types of every resource of this version.

Python sees `max_pods`, YAML sees `maxPods`. Objects are frozen: a change is a `model_copy`.
Unknown fields are ignored when a stored object is read (an older program must survive a newer
field); manifests that a user hands in are read with `extra="forbid"`, see `concertina_api.manifest`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

API_VERSION: Literal["concertina.dev/v1alpha1"] = "concertina.dev/v1alpha1"
PROTOCOL = 1
"""Version of the membership and report messages that this package speaks."""

MAX_INT = 2**53 - 1
"""Largest integer that survives JSON in every language."""
MAX_BATCH = 2**24
"""Largest global batch: a float32 carries every integer up to here exactly."""


class Model(BaseModel):
    """A frozen part of a resource."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        use_attribute_docstrings=True,
        extra="ignore",
    )


Name = Annotated[
    str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
]
JobName = Annotated[
    str, Field(min_length=1, max_length=52, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
]
Token = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:_-]+$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, Field(max_length=512)]
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
Positive = Annotated[int, Field(ge=1, le=MAX_INT)]
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH)]
Seconds = Annotated[int, Field(ge=0, le=10**9)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Duration = Annotated[float, Field(ge=0, allow_inf_nan=False)]
