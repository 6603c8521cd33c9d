"""Reports come from programs of users: whatever they hold is refused in one way, or understood."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from concertina_api.v1alpha1 import TrainingMembership, TrainingReport
from tests.fuzzing import DEEP, LENGTHS, STRANGE, bounded, fuzz, json_bytes, spoilt

FIXTURES = Path(__file__).parents[2] / "fixtures" / "protocol-1"
KINDS = {TrainingMembership: "membership-*.json", TrainingReport: "report-*.json"}


def documents(kind):
    return [json.loads(path.read_text()) for path in sorted(FIXTURES.glob(KINDS[kind]))]


def understood_again(message):
    """What was understood is written as a document that says the same."""
    text = message.model_dump_json(by_alias=True, exclude_none=True)
    assert type(message).model_validate_json(text) == message


def check_bytes(kind):
    def check(content):
        try:
            message = kind.model_validate_json(content)
        except ValidationError:
            return
        understood_again(message)

    return check


@LENGTHS
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_a_message_or_not_valid(kind, examples):
    fuzz(check_bytes(kind), json_bytes(documents(kind)), examples=examples)


@LENGTHS
@pytest.mark.parametrize("kind", KINDS)
def test_objects_of_the_api_server_are_a_message_or_not_valid(kind, examples):
    def check(document):
        try:
            message = kind.model_validate(document)
        except ValidationError:
            return
        understood_again(message)

    fuzz(check, spoilt(documents(kind)), examples=examples)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [*DEEP, *STRANGE], ids=lambda content: repr(content[:12]))
def test_bytes_of_no_message_are_not_valid(kind, content):
    with pytest.raises(ValidationError):
        bounded(kind.model_validate_json, content)
