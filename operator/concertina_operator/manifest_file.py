"""Reads the job of a manifest file for the command line, strictly.

Other documents of the file are kubectl's: they must be YAML, and are not looked at. Every mistake
is an InvalidJob that names the file, the place and the rule; keys that appear twice are mistakes
too, which YAML itself would let pass.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from concertina_api.errors import InvalidJob
from concertina_api.manifest import YAML_NUMBER, YAML_NUMBER_STARTS, job_document, parse_job
from concertina_api.v1alpha1 import AdaptiveTrainingJob

MAX_BYTES = 1 << 20
_PREFIX = "tag:yaml.org,2002:"
_JSON_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")
"""What a manifest is made of; a date is a text, as it is for kubectl."""


def load_job(path: Path) -> AdaptiveTrainingJob:
    """The job in the file. Raises InvalidJob."""
    return parse_job(_document(path), source=str(path))


def dump_job(job: AdaptiveTrainingJob) -> str:
    """The job as YAML that `load_job` reads back: what the user wrote, without status."""
    fields = job.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"status"})
    document = {"apiVersion": job.api_version, "kind": job.kind, **fields}
    # In ASCII: of the character "next line" PyYAML would read back a space.
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False)


def _document(path: Path) -> object:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidJob(f"cannot read {path}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise InvalidJob(f"{path} has {len(content)} bytes; a manifest has at most {MAX_BYTES}")
    try:
        documents = [item for item in yaml.load_all(content, Loader=_Loader) if item is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise InvalidJob(f"{place}: not valid YAML: {error.problem}") from error
    # What a scalar's text means is left to Python's own types, which raise errors of their own.
    except (yaml.YAMLError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        raise InvalidJob(f"{path}: not valid YAML: {error}") from error
    return job_document(documents, source=str(path))


class _Dumper(yaml.SafeDumper):
    """The safe dumper; it quotes the texts that the loader below would take for numbers."""


class _Loader(yaml.SafeLoader):
    """The safe loader for values of JSON alone, refusing a key that appears twice in a mapping."""

    yaml_constructors = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_PREFIX) in _JSON_TAGS
    }
    yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in resolvers if tag != f"{_PREFIX}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - the signature of the base class
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused below
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    "while constructing a mapping",
                    node.start_mark,
                    f"the key {key!r} appears twice",
                    key_node.start_mark,
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", YAML_NUMBER, YAML_NUMBER_STARTS)
