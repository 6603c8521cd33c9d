"""Reads what a user hands in, strictly: unknown fields are errors that name the nearest field.

Pure: takes a parsed mapping, raises InvalidJob with one line per mistake.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import AdaptiveTrainingJob


def parse_job(document: object, *, source: str = "manifest") -> AdaptiveTrainingJob:
    """The job that `document` (parsed YAML or JSON) describes.

    Raises InvalidJob: one line per mistake, each with the field, the value and the rule.
    """
    if not isinstance(document, Mapping):
        raise InvalidJob(f"{source}: expected a mapping, got {type(document).__name__}")
    try:
        return AdaptiveTrainingJob.model_validate(document, extra="forbid")
    except ValidationError as error:
        lines = "\n".join(f"  {line}" for line in _explain(error))
        raise InvalidJob(f"{source} is not a valid AdaptiveTrainingJob:\n{lines}") from error


def _explain(error: ValidationError) -> Iterator[str]:
    for mistake in error.errors(include_url=False):
        location = ".".join(str(part) for part in mistake["loc"]) or "manifest"
        if mistake["type"] == "extra_forbidden":
            yield f"{location}: unknown field{_nearest(mistake['loc'])}"
        elif mistake["type"] == "value_error":
            yield f"{location}: {mistake['ctx']['error']}"
        else:
            yield f"{location}: {mistake['msg']}, got {_shown(mistake['input'])}"


def _nearest(location: tuple[int | str, ...]) -> str:
    """` (did you mean x?)` for a misspelt field, else nothing."""
    model: type[BaseModel] | None = AdaptiveTrainingJob
    for part in location[:-1]:
        if isinstance(part, str) and model is not None:
            model = _model_of(model, part)
    if model is None:
        return ""
    names = [field.alias or name for name, field in model.model_fields.items()]
    close = get_close_matches(str(location[-1]), names, n=1)
    return f" (did you mean {close[0]}?)" if close else f" (known: {', '.join(names)})"


def _model_of(model: type[BaseModel], alias: str) -> type[BaseModel] | None:
    for name, field in model.model_fields.items():
        if alias in (field.alias, name):
            return _first_model(field.annotation)
    return None


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _first_model(part))), None)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
