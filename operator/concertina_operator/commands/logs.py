"""`concertina logs`: what the trainer of a job printed."""

import json
from collections.abc import Sequence
from typing import Any

import click

from concertina_api.errors import ConcertinaError
from concertina_operator.cluster import paths
from concertina_operator.cluster.pod import TRAINER_ANNOTATION
from concertina_operator.cluster.template import trainer_container_name
from concertina_operator.commands.connection import Cluster, connect
from concertina_operator.commands.live import Document, LiveJob, live_job
from concertina_operator.commands.options import Output, job_options


class NoSuchPod(ConcertinaError):
    """The job has no pod of this name, or none at all."""

    exit_code = 2


@click.command()
@click.argument("job")
@click.option("--pod", help="A pod of the job. Default: the one that leads.")
@click.option("--all-pods", is_flag=True, help="All pods, one after the other.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the pod ends.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last lines.")
@job_options
def logs(
    job: str,
    *,
    pod: str | None,
    all_pods: bool,
    follow: bool,
    tail: int | None,
    context: str | None,
    namespace: str | None,
    output: Output,
) -> None:
    """Print what the trainer of JOB printed, in the pod that leads."""
    if all_pods and (pod or follow):
        raise click.UsageError("--all-pods goes with neither --pod nor --follow")
    cluster = connect(context=context, namespace=namespace)
    live = live_job(cluster, job)
    chosen = live.pods if all_pods else (choose_pod(live, name=pod),)
    params = {"follow": "true"} if follow else {}
    if tail is not None:
        params["tailLines"] = str(tail)
    for document in chosen:
        _print_log(cluster, document, params, output=output, is_named=len(chosen) > 1)


def choose_pod(live: LiveJob, *, name: str | None) -> Document:
    """The named pod, else the leader of the newest round, else the oldest. Raises NoSuchPod."""
    pods = {pod["metadata"]["name"]: pod for pod in live.pods}
    job = live.job["metadata"]["name"]
    if not pods:
        state = (live.job.get("status") or {}).get("state") or "not seen yet"
        raise NoSuchPod(f"job {job} has no pods; it is {state}")
    if name is not None:
        if name not in pods:
            raise NoSuchPod(f"job {job} has no pod {name}; it has {', '.join(sorted(pods))}")
        return pods[name]
    members: Sequence[Any] = ((live.membership or {}).get("spec") or {}).get("members") or ()
    leader = members[0]["pod"] if members else None
    oldest = min(pods.values(), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    return pods.get(leader, oldest) if leader else oldest


def _print_log(
    cluster: Cluster,
    pod: Document,
    params: dict[str, str],
    *,
    output: Output,
    is_named: bool,
) -> None:
    name = pod["metadata"]["name"]
    annotations = pod["metadata"].get("annotations") or {}
    container = annotations.get(TRAINER_ANNOTATION) or trainer_container_name(pod["spec"])
    asked = {**params, "container": str(container)} if container else params
    path = f"{paths.pods(cluster.namespace, name)}/log"
    for line in cluster.lines(path, params=asked):
        if output is Output.JSON:
            click.echo(json.dumps({"pod": name, "line": line}))
        else:
            click.echo(f"{name}  {line}" if is_named else line)
