"""Reads a job's pod template: what contradicts the operator, and which container trains.

Called by pod.py, which builds the pod, and by the reconcile, which says TemplateValid. Only what
the operator touches is read here: everything else is the API server's to judge, by a strict dry
run of the built pod. Pure: no I/O, no clock.
"""

import hashlib
import json
import posixpath
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import JobSpec
from concertina_operator.cluster.environment import (
    MAX_DOCUMENT_BYTES,
    PREFIX,
    TOKEN_PATH,
    USER_VARIABLES,
    spec_document,
)

DOMAIN: Final = "concertina.dev"
TRAINER: Final = "trainer"
"""Name of the container that trains, where there are several."""
VOLUME_PREFIX: Final = "concertina-"
"""Volumes with such names are the operator's."""

MIN_GRACE_SECONDS: Final = 2
"""What the kubelet leaves to a container whose preStop has used up the grace period."""

_FIELD: Final = "spec.pods.template"
_METADATA: Final = ("labels", "annotations")


class _Part(BaseModel):
    """Fields that are read; all others are the user's affair."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore"
    )


class Variable(_Part):
    """A variable of a container's environment."""

    name: str


class Port(_Part):
    """A port of a container."""

    name: str = ""
    container_port: int


class Mount(_Part):
    """A volume at a path of a container."""

    name: str
    mount_path: str
    read_only: bool = False
    sub_path_expr: str | None = None


class Resources(_Part):
    """What a container may use."""

    limits: Mapping[str, str | int | float] = Field(default_factory=dict)


class Sleep(_Part):
    """A hook that only waits."""

    seconds: int = 0


class Hook(_Part):
    """What a container does before its SIGTERM; commands and requests take unknown time."""

    sleep: Sleep = Sleep()


class Lifecycle(_Part):
    """Hooks of a container."""

    pre_stop: Hook = Hook()


class Container(_Part):
    """A container as far as the operator adds to it."""

    name: str
    command: tuple[str, ...] = ()
    env: tuple[Variable, ...] = ()
    ports: tuple[Port, ...] = ()
    volume_mounts: tuple[Mount, ...] = ()
    resources: Resources = Resources()
    lifecycle: Lifecycle = Lifecycle()
    restart_policy: str = "Never"
    restart_policy_rules: tuple[Mapping[str, Any], ...] = ()
    readiness_probe: Mapping[str, Any] | None = None

    def mounts_at(self, path: str) -> bool:
        """Whether a volume of the user is at exactly this path."""
        return any(posixpath.normpath(mount.mount_path) == path for mount in self.volume_mounts)


class PodPart(_Part):
    """A pod's spec as far as the operator adds to it."""

    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Mapping[str, Any], ...] = ()
    restart_policy: str = "Never"
    host_network: bool = False
    host_ipc: Annotated[bool, Field(alias="hostIPC")] = False
    termination_grace_period_seconds: Annotated[int, Field(ge=0)] | None = None
    security_context: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def trainer(self) -> Container | None:
        """The container that trains."""
        return next(
            (container for container in self.containers if container.name == TRAINER),
            self.containers[0] if len(self.containers) == 1 else None,
        )


class MetadataPart(_Part):
    """What a template says about the pods themselves."""

    labels: Mapping[str, str] = Field(default_factory=dict)
    annotations: Mapping[str, str] = Field(default_factory=dict)


class Template(_Part):
    """A PodTemplateSpec as far as the operator adds to it."""

    metadata: MetadataPart = MetadataPart()
    spec: PodPart


def read_template(spec: JobSpec) -> Template:
    """The template of a job. Raises InvalidJob with one line per value of a wrong type."""
    try:
        return Template.model_validate(without_nulls(spec.pods.template))
    except ValidationError as error:
        raise InvalidJob("\n".join(_explained(error))) from error


def template_faults(spec: JobSpec) -> tuple[str, ...]:
    """What keeps the operator from building a pod, in sentences; empty when nothing does."""
    try:
        template = read_template(spec)
    except InvalidJob as error:
        return tuple(str(error).splitlines())
    return tuple(_conflicts(template, spec))


def template_hash(spec: JobSpec) -> str:
    """Stands for the template: pods that carry another one were built from an older template."""
    text = json.dumps(without_nulls(spec.pods.template), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def trainer_container_name(pod_spec: Mapping[str, Any]) -> str | None:
    """Name of the container that trains: `trainer`, else the only one, else None."""
    names = [container.get("name") for container in pod_spec.get("containers") or ()]
    if TRAINER in names:
        return TRAINER
    return names[0] if len(names) == 1 else None


def grace_after_hook(grace_seconds: int, *, lifecycle: Lifecycle) -> int:
    """Seconds from a container's SIGTERM to SIGKILL, as far as its preStop says how long it takes.

    A preStop comes before SIGTERM and takes from the grace period: one that sleeps as much as it
    says, one that runs a command or asks a server nobody knows how much.
    """
    left = grace_seconds - lifecycle.pre_stop.sleep.seconds
    return max(left, min(grace_seconds, MIN_GRACE_SECONDS))


def without_nulls(value: Any) -> Any:
    """A deep copy without null fields, which mean absent fields in Kubernetes."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(item) for item in value]
    return value


def _conflicts(template: Template, spec: JobSpec) -> Iterator[str]:
    yield from _metadata_conflicts(template, spec)
    pod = template.spec
    if pod.restart_policy != "Never":
        yield (
            f"{_FIELD}.spec.restartPolicy is {pod.restart_policy}; it must be Never:"
            " the operator replaces pods"
        )
    for volume in pod.volumes:
        name = str(volume.get("name", ""))
        if name.startswith(VOLUME_PREFIX):
            yield f"{_FIELD}.spec.volumes: names with {VOLUME_PREFIX} are the operator's, got {name}"
    if not pod.containers:
        yield f"{_FIELD}.spec.containers is empty; a pod has a container that trains"
    elif pod.trainer is None:
        names = ", ".join(container.name for container in pod.containers)
        yield (
            f"{_FIELD}.spec.containers has {len(pod.containers)} containers ({names});"
            f" one of several must be named {TRAINER}"
        )
    else:
        yield from _trainer_conflicts(pod.trainer, spec)
    size = len(spec_document(spec).encode())
    if size > MAX_DOCUMENT_BYTES:
        yield (
            f"spec without its template has {size} bytes as JSON; a pod's environment takes"
            f" {MAX_DOCUMENT_BYTES}: make spec.config smaller"
        )


def _metadata_conflicts(template: Template, spec: JobSpec) -> Iterator[str]:
    written = without_nulls(spec.pods.template.get("metadata") or {})
    for field in sorted(set(written) - set(_METADATA)):
        yield f"{_FIELD}.metadata.{field} is not for a template; it takes labels and annotations"
    for field in _METADATA:
        for key in getattr(template.metadata, field):
            domain = key.partition("/")[0]
            if domain == DOMAIN or domain.endswith(f".{DOMAIN}"):
                yield f"{_FIELD}.metadata.{field}: {DOMAIN}/ is the operator's, got {key}"


def _trainer_conflicts(trainer: Container, spec: JobSpec) -> Iterator[str]:
    where = f"container {trainer.name}"
    for variable in trainer.env:
        if variable.name.startswith(PREFIX) and variable.name not in USER_VARIABLES:
            yield f"{where}: variables with {PREFIX} are the operator's, got {variable.name}"
    if trainer.restart_policy != "Never" or trainer.restart_policy_rules:
        yield (
            f"{where}: restartPolicy is {trainer.restart_policy} with"
            f" {len(trainer.restart_policy_rules)} rules; it must be Never without rules:"
            " the operator replaces pods"
        )
    if trainer.mounts_at(TOKEN_PATH):
        yield f"{where}: {TOKEN_PATH} is where the operator mounts the pod's token"
    workers = spec.pods.workers_per_pod
    for resource, limit in trainer.resources.limits.items():
        if resource.endswith("/gpu") and str(limit) != str(workers):
            yield (
                f"{where}: limit {resource} is {limit}, but workersPerPod is {workers};"
                " every worker has one GPU"
            )


def _explained(error: ValidationError) -> Iterator[str]:
    for mistake in error.errors(include_url=False):
        place = ".".join(str(part) for part in (_FIELD, *mistake["loc"]))
        yield f"{place}: {mistake['msg']}"
