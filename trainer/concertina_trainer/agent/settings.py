"""What an agent is told by its environment, checked before anything starts. No torch import."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from concertina_api.errors import InvalidJob
from concertina_api.manifest import parse_job
from concertina_api.v1alpha1 import AdaptiveTrainingJob
from concertina_api.v1alpha1.base import Host, Name, Token

DEFAULT_GRACE_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The environment of an agent; names of the variables are in `settings_from`."""

    job: AdaptiveTrainingJob
    pod: str
    uid: str
    membership: Path
    report: Path
    host: str
    metrics_port: int
    """0 when no metrics are served."""
    mailbox: Path
    grace_seconds: float
    """Time between SIGTERM and the SIGKILL of whoever sent it."""

    def worker_log(self, incarnation: str, local_rank: int, stream: str) -> Path:
        """Where one output stream (stdout, stderr) of a worker goes."""
        return self.mailbox.with_name("logs") / f"{incarnation}-{local_rank}.{stream}"


def settings_from(environment: Mapping[str, str]) -> Settings:
    """Settings of an agent. Raises InvalidJob with one line per mistake.

    The mailbox is pods/<pod>/mailbox in the run's folder, unless CONCERTINA_MAILBOX names another.
    """
    reader = _Reader(environment)
    pod = reader.checked("CONCERTINA_POD", TypeAdapter(Name))
    uid = reader.checked("CONCERTINA_UID", TypeAdapter(Token))
    host = reader.checked("CONCERTINA_HOST", TypeAdapter(Host), default="127.0.0.1")
    job = reader.path("CONCERTINA_JOB")
    membership = reader.path("CONCERTINA_MEMBERSHIP")
    report = reader.path("CONCERTINA_REPORT")
    run_dir = reader.path("CONCERTINA_RUN_DIR")
    mailbox = environment.get("CONCERTINA_MAILBOX") or run_dir / "pods" / pod / "mailbox"
    metrics_port = reader.number("CONCERTINA_METRICS_PORT", default=0, maximum=65535)
    grace = reader.number("CONCERTINA_GRACE_SECONDS", default=DEFAULT_GRACE_SECONDS, maximum=10**6)
    if reader.mistakes:
        lines = "\n".join(f"  {mistake}" for mistake in reader.mistakes)
        raise InvalidJob(f"the agent's environment is not valid:\n{lines}")
    return Settings(
        job=load_job(job),
        pod=pod,
        uid=uid,
        membership=membership,
        report=report,
        host=host,
        metrics_port=int(metrics_port),
        mailbox=Path(mailbox).absolute(),
        grace_seconds=grace,
    )


def load_job(path: Path) -> AdaptiveTrainingJob:
    """The manifest at `path`. Raises InvalidJob when it cannot be read or is wrong."""
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidJob(f"cannot read the job's manifest {path}: {error}") from error
    return parse_job(document, source=str(path))


class _Reader:
    """Reads variables and collects what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.mistakes: list[str] = []

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
