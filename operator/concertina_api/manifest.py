"""Reads what a user hands in, as strictly as an API server does.

Unknown fields are errors that name the nearest field, and text is no number. Pure: takes a parsed
mapping, raises InvalidJob with one line per mistake.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import AdaptiveTrainingJob

YAML_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
"""Numbers as kubectl reads them: 3e-4, which YAML 1.1 takes for a text, is one of them."""
YAML_NUMBER_STARTS = tuple("-+.0123456789")
"""The characters that a number may start with; a YAML resolver is looked up by them."""
KIND = "AdaptiveTrainingJob"
MAX_VALUES = 100_000
"""A document of more is refused: an alias of aliases in YAML may stand for billions."""
MAX_DEPTH = 64
_MOST_CHARACTERS = 200
"""Of what a user wrote that a message repeats."""


def job_document(documents: Sequence[object], *, source: str = "manifest") -> object:
    """The document that describes the job, among all of a file.

    A file may hold more than the job: what kubectl applies with it, such as the claim of a volume.
    One document alone is the job, whatever it calls itself. Raises InvalidJob for several jobs, or
    for none among several documents.
    """
    if len(documents) == 1:
        return documents[0]
    kinds = [_kind(document) for document in documents]
    jobs = [item for item, kind in zip(documents, kinds, strict=True) if kind == KIND]
    if len(jobs) == 1:
        return jobs[0]
    held = f"{len(documents)} YAML documents"
    if kinds:
        held += f" ({', '.join(kinds)[:_MOST_CHARACTERS]})"
    raise InvalidJob(f"{source} holds {held}; exactly one of them must be an {KIND}")


def parse_job(document: object, *, source: str = "manifest") -> AdaptiveTrainingJob:
    """The job that `document` (parsed YAML or JSON) describes.

    Raises InvalidJob: one line per mistake, each with the field, the value and the rule.
    """
    if not isinstance(document, Mapping):
        raise InvalidJob(f"{source}: expected a mapping, got {type(document).__name__}")
    if fault := strangeness(document):
        raise _invalid(source, [fault])
    try:
        job = AdaptiveTrainingJob.model_validate(document, extra="forbid", by_name=False)
    except ValidationError as error:
        raise _invalid(source, _explain(error)) from error
    read = job.spec.model_dump(by_alias=True, exclude_unset=True)
    if converted := list(_converted(document["spec"], read, place="spec")):
        raise _invalid(source, converted)
    return job


def strangeness(document: object) -> str:
    """The first value of a document that cannot be stored, and why; empty when all of it can.

    That is what JSON does not know, and what has no bearable end.
    """
    for number, (place, value) in enumerate(_values(document)):
        if number == MAX_VALUES:
            return f"more than {MAX_VALUES} values"
        if fault := _fault(value, depth=len(place)):
            return f"{'.'.join(place)[:200] or 'manifest'}: {fault}"
    return ""


def _kind(document: object) -> str:
    kind = document.get("kind") if isinstance(document, Mapping) else None
    return kind if isinstance(kind, str) else "no kind"


def _values(value: object, *place: str) -> Iterator[tuple[tuple[str, ...], object]]:
    """All values in a document by where they stand, what holds others before them."""
    yield place, value
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _values(inner, *place, _shown_key(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _values(inner, *place, str(index))


def _fault(value: object, *, depth: int) -> str:
    match value:
        case None | bool():
            return ""
        case int():
            return "" if -(2**63) <= value < 2**63 else "an integer has at most 64 bits"
        case float():
            return "" if math.isfinite(value) else f"{value} is not a finite number"
        case str():
            return "" if _is_text(value) else "half a character (a lone surrogate) is no text"
        case Mapping() | list() | tuple() if depth >= MAX_DEPTH:
            return f"nests deeper than {MAX_DEPTH} levels"
        case Mapping():
            wrong = [key for key in value if not (isinstance(key, str) and _is_text(key))]
            return f"the key {_shown(wrong[0])} is no text: write it in quotes" if wrong else ""
        case list() | tuple():
            return ""
        case _:
            return f"a {type(value).__name__} is no value of JSON: write it in quotes"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _invalid(source: str, mistakes: Iterable[str]) -> InvalidJob:
    lines = "\n".join(f"  {line}" for line in mistakes)
    return InvalidJob(f"{source} is not a valid AdaptiveTrainingJob:\n{lines}")


def _converted(given: Any, read: Any, *, place: str) -> Iterator[str]:
    """Values of the wrong type that the models understood all the same; 8.0 is the integer 8."""
    if isinstance(given, Mapping):
        for key, value in given.items():
            yield from _converted(value, read[key], place=f"{place}.{key}")
    elif isinstance(given, list | tuple):
        for index, (value, entry) in enumerate(zip(given, read, strict=True)):
            yield from _converted(value, entry, place=f"{place}.{index}")
    elif given is not read and (
        given != read or isinstance(given, bool) is not isinstance(read, bool)
    ):
        yield f"{place}: write {json.dumps(read)}, not {_shown(given)}"


def _explain(error: ValidationError) -> Iterator[str]:
    for mistake in error.errors(include_url=False):
        location = ".".join(_shown_key(part) for part in mistake["loc"]) or "manifest"
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
    close = get_close_matches(_shown_key(location[-1]), names, n=1)
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


def _shown_key(key: object) -> str:
    text = str(key)
    return text if len(text) <= 60 else text[:57] + "..."
