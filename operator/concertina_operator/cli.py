"""The command `concertina`: run, validate, plan and plot, jobs of a cluster, and what others add.

Other packages add commands by the entry point group `concertina.commands`; they are imported only
when they are called. Every ConcertinaError becomes a message on stderr and an exit code: 2 for
what the user can mend, 1 for the rest, 130 after Ctrl-C.
"""

import importlib.util
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Any, Final

import click

from concertina_api.errors import ConcertinaError, InvalidJob, MissingPackage
from concertina_api.v1alpha1 import JobSpec
from concertina_operator.cluster.durability import checkpoint_warning
from concertina_operator.cluster.template import template_faults
from concertina_operator.commands.install import install, uninstall
from concertina_operator.commands.jobs import describe, resume, status, suspend
from concertina_operator.commands.logs import logs
from concertina_operator.commands.plan import plan
from concertina_operator.local.record import Outcome
from concertina_operator.manifest_file import load_job

_COMMANDS: Final = "concertina.commands"
_DISTRIBUTION: Final = "concertina-training"
_INTERRUPTED: Final = 130

_CLOSING: Final = {
    Outcome.COMPLETED: "completed: {path}/summary.json, {path}/plot.png",
    Outcome.INTERRUPTED: "interrupted: run the same command again to go on from {path}",
    Outcome.FAILED: "failed: the agents' logs are {path}/pods/*/agent.log",
    Outcome.INVALID: "failed: mend the job; the agents' logs are {path}/pods/*/agent.log",
}
"""The last line of a run."""

_Manifest: Final = click.argument("manifest", type=click.Path(path_type=Path))


class _Commands(click.Group):
    """The group's own commands and those of the entry points, with errors as messages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(entry.name for entry in _entries())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        found = [entry for entry in _entries() if entry.name == cmd_name]
        # A list of commands needs names; loading one may mean seconds of imports.
        return click.Command(cmd_name, help=f"See concertina {cmd_name} --help.") if found else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        found = [entry for entry in _entries() if entry.name == name]
        if found and super().get_command(ctx, found[0].name) is None:
            return name, _loaded(found[0]), rest
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConcertinaError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(_INTERRUPTED)


@click.group(cls=_Commands)
@click.version_option(version(_DISTRIBUTION), prog_name="concertina")
def main() -> None:
    """Training jobs whose batch grows by gradient variance, on workers that re-shard in place."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


@main.command()
@_Manifest
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run; one that exists is resumed. Default: runs/<job>.",
)
@click.option("--samples", type=click.IntRange(min=1), help="Length of the run, in samples.")
@click.option(
    "--script",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A program that drives the training loop itself. Default: the loop of Concertina.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Serve Prometheus metrics; each pod on a port of its own from this one on.",
)
def run(
    manifest: Path,
    *,
    run_dir: Path | None,
    samples: int | None,
    script: Path | None,
    metrics_port: int | None,
) -> None:
    """Train the job of MANIFEST on this machine, or resume it.

    Ctrl-C saves a checkpoint and stops; a second Ctrl-C stops at once.
    """
    from concertina_operator.local.directory import open_directory
    from concertina_operator.local.display import display_for
    from concertina_operator.local.interrupts import Interrupts
    from concertina_operator.local.pods import AGENT_COMMAND
    from concertina_operator.local.shell import Settings, run_job

    job = load_job(manifest)
    if samples is not None:
        length = {"samples": samples, "epochs": None}
        job = job.model_copy(update={"spec": job.spec.model_copy(update=length)})
    _need_trainer("concertina run")
    if metrics_port is not None:
        check_ports(range(metrics_port, metrics_port + job.spec.pods.max))
    program = () if script is None else (str(script.absolute()),)
    path = run_dir or Path("runs") / job.metadata.name
    with Interrupts() as interrupts, open_directory(path, job=job) as directory:
        outcome = run_job(
            job,
            directory=directory,
            display=display_for(sys.stdout),
            interrupts=interrupts,
            settings=Settings(agent_command=(*AGENT_COMMAND, *program), metrics_port=metrics_port),
        )
    _plot_if_possible(path)
    close_with(_CLOSING[outcome].format(path=path))
    sys.exit(outcome.exit_code)


@main.command()
@_Manifest
def validate(manifest: Path) -> None:
    """Check MANIFEST, its model and its data set, without training."""
    job = load_job(manifest)
    warning = check_template(job.spec)
    click.echo(f"{manifest}: the manifest of {job.metadata.name} is valid")
    if warning is not None:
        click.echo(f"on a cluster: {warning}")
    if not _has("torch"):
        click.echo("model and data set are not checked, that needs concertina-training[trainer]")
        return
    # A process of its own: this package never imports torch.
    command = [sys.executable, "-m", "concertina_trainer.validate", str(manifest)]
    sys.exit(subprocess.run(command, check=False).returncode)


@main.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="A PNG file.")
def plot(run_dir: Path, *, output: Path | None) -> None:
    """Draw loss, batch, workers and pauses of the run in RUN_DIR."""
    from concertina_operator.plotting import plot_run

    click.echo(plot_run(run_dir, output=output))


for command in (describe, install, logs, plan, resume, status, suspend, uninstall):
    main.add_command(command)


def check_template(spec: JobSpec) -> str | None:
    """What is to be said about the pods' template, if there is one; `concertina run` needs none.

    Raises InvalidJob for what an operator would refuse.
    """
    if not spec.pods.template:
        return None
    if faults := template_faults(spec):
        raise InvalidJob("the operator builds no pod from this template:\n  " + "\n  ".join(faults))
    return checkpoint_warning(spec)


def check_ports(ports: Sequence[int]) -> None:
    """Raises InvalidJob when one of the ports cannot be bound."""
    for port in ports:
        if port > 65535:
            raise InvalidJob(f"metrics port {port} is above 65535; choose a lower --metrics-port")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                raise InvalidJob(
                    f"metrics port {port} is taken ({error.strerror}); choose another"
                    f" --metrics-port: {len(ports)} ports from there on must be free"
                ) from error


def close_with(text: str) -> None:
    """Prints the last line; nobody has to read it."""
    try:
        click.echo(text)
    except OSError:
        # What the closed pipe did not take is flushed once more at exit, where it would be an error.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _entries() -> list[EntryPoint]:
    return list(entry_points(group=_COMMANDS))


def _loaded(entry: EntryPoint) -> click.Command:
    """The command of another package, or one that says which extra it needs."""
    try:
        command: click.Command = entry.load()
    except ModuleNotFoundError as error:
        needs = MissingPackage(
            error.name or entry.module, extra="trainer", purpose=f"concertina {entry.name}"
        )

        @click.command(
            entry.name,
            help=f"Not available: {needs}",
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )
        def unavailable() -> None:
            raise needs

        return unavailable
    return command


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _need_trainer(purpose: str) -> None:
    for package in ("torch", "safetensors"):
        if not _has(package):
            raise MissingPackage(package, extra="trainer", purpose=purpose)


def _plot_if_possible(run_dir: Path) -> None:
    from concertina_operator.plotting import plot_run

    try:
        plot_run(run_dir)
    except ConcertinaError as error:
        click.echo(f"no plot: {error}", err=True)


if __name__ == "__main__":
    main()
