"""`concertina status`, `describe`, `suspend` and `resume`: jobs of a cluster by name."""

from datetime import UTC, datetime

import click

from concertina_operator.cluster import paths
from concertina_operator.commands.connection import Cluster, connect
from concertina_operator.commands.live import (
    Document,
    LiveJob,
    find_job,
    list_jobs,
    live_job,
    patch_job,
)
from concertina_operator.commands.live_plan import suspension_warning, switched
from concertina_operator.commands.options import Output, job_options, show
from concertina_operator.commands.rendering import description, job_summary, job_table


@click.command()
@click.argument("job", required=False)
@click.option("--all-namespaces", "-A", is_flag=True, help="Jobs of all namespaces.")
@job_options
def status(
    job: str | None,
    *,
    all_namespaces: bool,
    context: str | None,
    namespace: str | None,
    output: Output,
) -> None:
    """Show the jobs of a namespace, or JOB alone, one line each."""
    if job and all_namespaces:
        raise click.UsageError("give a JOB or --all-namespaces, not both")
    cluster = connect(context=context, namespace=namespace)
    found = (find_job(cluster, job),) if job else list_jobs(cluster, everywhere=all_namespaces)
    nothing = "no jobs" if all_namespaces else f"no jobs in namespace {cluster.namespace}"
    table = job_table(found, everywhere=all_namespaces, now=datetime.now(UTC))
    show(
        output,
        text=table if found else [nothing],
        document=[job_summary(entry) for entry in found],
    )


@click.command()
@click.argument("job")
@job_options
def describe(job: str, *, context: str | None, namespace: str | None, output: Output) -> None:
    """Show all about JOB: batch, progress, conditions, pods and events."""
    cluster = connect(context=context, namespace=namespace)
    live = live_job(cluster, job)
    events = _events_of(cluster, live)
    show(
        output,
        text=description(live, events=events, now=datetime.now(UTC)),
        document={
            "job": live.job,
            "membership": live.membership,
            "pods": live.pods,
            "reports": live.reports,
            "events": events,
        },
    )


@click.command()
@click.argument("job")
@job_options
def suspend(job: str, *, context: str | None, namespace: str | None, output: Output) -> None:
    """Let JOB save a checkpoint and give back its pods, until it is resumed.

    Warns of a job that begins anew then, because no volume keeps its checkpoints.
    """
    cluster = connect(context=context, namespace=namespace)
    _switch(cluster, job, suspended=True, output=output)


@click.command()
@click.argument("job")
@job_options
def resume(job: str, *, context: str | None, namespace: str | None, output: Output) -> None:
    """Let a suspended JOB go on where it was."""
    cluster = connect(context=context, namespace=namespace)
    _switch(cluster, job, suspended=False, output=output)


def _switch(cluster: Cluster, name: str, *, suspended: bool, output: Output) -> None:
    before = bool(find_job(cluster, name)["spec"].get("suspend"))
    job = patch_job(cluster, name, spec={"suspend": suspended})
    unchanged = "suspended already" if suspended else "not suspended"
    what = unchanged if before == suspended else switched(job)
    if suspended and not before and (warning := suspension_warning(job)):
        click.echo(f"Warning: {warning}", err=True)
    document = {
        "namespace": cluster.namespace,
        "name": name,
        "suspend": suspended,
        "changed": before != suspended,
    }
    show(output, text=[f"{cluster.namespace}/{name} is {what}"], document=document)


def _events_of(cluster: Cluster, live: LiveJob) -> tuple[Document, ...]:
    uid = live.job["metadata"]["uid"]
    return cluster.items(
        paths.events(cluster.namespace), params={"fieldSelector": f"regarding.uid={uid}"}
    )
