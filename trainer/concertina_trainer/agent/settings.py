"""What an agent is told by its environment, checked before anything starts. No torch import."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from concertina_api.errors import InvalidJob, StorageUnavailable
from concertina_api.manifest import YAML_NUMBER, YAML_NUMBER_STARTS, job_document, parse_job
from concertina_api.v1alpha1 import AdaptiveTrainingJob, FailureCause
from concertina_api.v1alpha1.base import Host, Name, Token
from concertina_trainer.agent.api_server import Access
from concertina_trainer.causes import account_of

DEFAULT_GRACE_SECONDS = 120.0
_PREFIX = "tag:yaml.org,2002:"
_JSON_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")
"""What a manifest is made of; a date is a text, as it is for kubectl."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Membership and report as files, in the folder of `concertina run`."""

    membership: Path
    report: Path


Channel = Files | Access
"""Where the membership is read and the report written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The environment of an agent; names of the variables are in `settings_from`."""

    job: AdaptiveTrainingJob
    manifest: Path
    """Where workers find the job."""
    pod: str
    uid: str
    channel: Channel
    host: str
    metrics_port: int
    """0 when no metrics are served."""
    mailbox: Path
    grace_seconds: float
    """Time between SIGTERM and the SIGKILL of whoever sent it."""
    newest_round: int = 0
    """Of the membership when this pod was made; 0 when there was none yet."""

    def worker_log(self, incarnation: str, local_rank: int, stream: str) -> Path:
        """Where one output stream (stdout, stderr) of a worker goes."""
        return self.mailbox.with_name("logs") / f"{incarnation}-{local_rank}.{stream}"


def settings_from(environment: Mapping[str, str]) -> Settings:
    """Settings of an agent.

    Raises InvalidJob with one line per mistake, StorageUnavailable when the disk is full or away.

    The mailbox is pods/<pod>/mailbox in the run's folder, unless CONCERTINA_MAILBOX names another.
    On Kubernetes CONCERTINA_SPEC holds the job itself, which is written beside the mailbox.
    """
    reader = _Reader(environment)
    pod = reader.checked("CONCERTINA_POD", TypeAdapter(Name))
    uid = reader.checked("CONCERTINA_UID", TypeAdapter(Token))
    in_cluster = is_in_cluster(environment)
    here = None if in_cluster else "127.0.0.1"
    host = reader.checked("CONCERTINA_HOST", TypeAdapter(Host), default=here)
    channel = _channel(reader, in_cluster=in_cluster)
    manifest = None if in_cluster else reader.path("CONCERTINA_JOB")
    run_dir = reader.path("CONCERTINA_RUN_DIR")
    mailbox = environment.get("CONCERTINA_MAILBOX") or run_dir / "pods" / pod / "mailbox"
    metrics_port = reader.number("CONCERTINA_METRICS_PORT", default=0, maximum=65535)
    grace = reader.number("CONCERTINA_GRACE_SECONDS", default=DEFAULT_GRACE_SECONDS, maximum=10**6)
    newest_round = reader.number("CONCERTINA_ROUND", default=0, maximum=2**53)
    reader.refuse_mistakes()
    if manifest is None:
        manifest = _write_manifest(environment["CONCERTINA_SPEC"], Path(mailbox).parent)
    return Settings(
        job=load_job(manifest),
        manifest=manifest.absolute(),
        pod=pod,
        uid=uid,
        channel=channel,
        host=host,
        metrics_port=int(metrics_port),
        mailbox=Path(mailbox).absolute(),
        grace_seconds=grace,
        newest_round=int(newest_round),
    )


def channel_from(environment: Mapping[str, str]) -> Channel:
    """Where membership and report are. Raises InvalidJob when the environment does not say."""
    reader = _Reader(environment)
    channel = _channel(reader, in_cluster=is_in_cluster(environment))
    reader.refuse_mistakes()
    return channel


def is_in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether the agent stands in a pod on Kubernetes rather than for a pod of `concertina run`."""
    return "CONCERTINA_SPEC" in environment


def load_job(path: Path) -> AdaptiveTrainingJob:
    """The manifest at `path`. Raises InvalidJob when it cannot be read or is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
        documents = [item for item in yaml.load_all(text, Loader=_Loader) if item is not None]
    # What a scalar's text means is left to Python's own types, which raise errors of their own.
    except (
        OSError,
        yaml.YAMLError,
        ValueError,
        LookupError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise InvalidJob(f"cannot read the job's manifest {path}: {error}") from error
    return parse_job(job_document(documents, source=str(path)), source=str(path))


class _Loader(yaml.SafeLoader):
    """The safe loader, with the numbers of a manifest and for values of JSON alone."""

    yaml_constructors = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_PREFIX) in _JSON_TAGS
    }
    yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in resolvers if tag != f"{_PREFIX}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", YAML_NUMBER, YAML_NUMBER_STARTS)


def _channel(reader: "_Reader", *, in_cluster: bool) -> Channel:
    if not in_cluster:
        return Files(
            membership=reader.path("CONCERTINA_MEMBERSHIP"), report=reader.path("CONCERTINA_REPORT")
        )
    return Access(
        host=reader.checked("KUBERNETES_SERVICE_HOST", TypeAdapter(Host)),
        port=int(reader.number("KUBERNETES_SERVICE_PORT", default=443, maximum=65535)),
        namespace=reader.checked("CONCERTINA_NAMESPACE", TypeAdapter(Name)),
        credentials=reader.path("CONCERTINA_TOKEN"),
    )


def _write_manifest(document: str, folder: Path) -> Path:
    """The job for workers to read; what a newer operator has added to it is left out."""
    try:
        job = AdaptiveTrainingJob.model_validate_json(document)
    except ValidationError as error:
        raise InvalidJob(f"CONCERTINA_SPEC is not an AdaptiveTrainingJob: {error}") from error
    path = folder / "job.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(job.model_dump_json(by_alias=True, exclude={"status"}))
    except OSError as error:
        is_well_another_time = account_of(error).cause is FailureCause.INFRASTRUCTURE
        kind = StorageUnavailable if is_well_another_time else InvalidJob
        raise kind(f"CONCERTINA_RUN_DIR: cannot write the job to {path}: {error}") from error
    return path


class _Reader:
    """Reads variables and collects what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.mistakes: list[str] = []

    def refuse_mistakes(self) -> None:
        if self.mistakes:
            lines = "\n".join(f"  {mistake}" for mistake in self.mistakes)
            raise InvalidJob(f"the agent's environment is not valid:\n{lines}")

    def checked(self, name: str, kind: TypeAdapter[str], *, default: str | None = None) -> str:
        value = self._environment.get(name) or default
        if value is None:
            self.mistakes.append(f"{name} is not set")
            return ""
        try:
            return kind.validate_python(value)
        except ValidationError as error:
            self.mistakes.append(f"{name}={value!r}: {error.errors()[0]['msg']}")
            return ""

    def path(self, name: str) -> Path:
        value = self._environment.get(name)
        if not value:
            self.mistakes.append(f"{name} is not set")
        return Path(value or ".")

    def number(self, name: str, *, default: float, maximum: float) -> float:
        value = self._environment.get(name) or str(default)
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number <= maximum:
            self.mistakes.append(f"{name}={value!r} is not a number from 0 to {maximum:.0f}")
        return number
