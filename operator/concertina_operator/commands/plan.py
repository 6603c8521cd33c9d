"""`concertina plan`: what a manifest leads to, or what the operator would do about a job now."""

from datetime import UTC, datetime
from pathlib import Path
from re import fullmatch

import click

from concertina_api.v1alpha1 import AdaptiveTrainingJob
from concertina_operator.commands.connection import connect
from concertina_operator.commands.live import live_job
from concertina_operator.commands.live_plan import plan_document, plan_of, told
from concertina_operator.commands.options import Output, job_options, show
from concertina_operator.explain import explain_request, explain_sizes
from concertina_operator.manifest_file import load_job


@click.command()
@click.argument("what", metavar="MANIFEST|JOB")
@click.option("--request", type=int, help="A batch that the rule asks for, in samples.")
@click.option("--granted", type=click.IntRange(min=0), help="Pods that a quota allows.")
@job_options
def plan(
    what: str,
    *,
    request: int | None,
    granted: int | None,
    context: str | None,
    namespace: str | None,
    output: Output,
) -> None:
    """Explain how many pods each batch of MANIFEST leads to, and why. Starts nothing.

    For a JOB of the cluster: what the operator would do now and why; with --request, what it would
    do if the batch were asked for.
    """
    if not names_a_job(what):
        _show_imagined(load_job(Path(what)), request=request, granted=granted, output=output)
        return
    live = live_job(connect(context=context, namespace=namespace), what)
    if request is not None:
        job = live.observed().job
        _show_imagined(job, request=request, granted=granted, output=output)
        return
    observed, decided = plan_of(live, granted=granted, now=datetime.now(UTC))
    show(output, text=told(observed, decided), document=plan_document(observed, decided))


def names_a_job(what: str) -> bool:
    """Whether it is a job of the cluster: a name without dots that is no file here."""
    return fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", what) is not None and not Path(what).exists()


def _show_imagined(
    job: AdaptiveTrainingJob, *, request: int | None, granted: int | None, output: Output
) -> None:
    lines = (
        explain_sizes(job.spec)
        if request is None
        else explain_request(job, requested=request, granted=granted)
    )
    text = [_outline(job), *lines]
    show(output, text=text, document={"name": job.metadata.name, "explanation": text})


def _outline(job: AdaptiveTrainingJob) -> str:
    batch, pods = job.spec.batch, job.spec.pods
    allowed = f" (allowed {', '.join(map(str, pods.allowed))})" if pods.allowed else ""
    return (
        f"{job.metadata.name}: batch {batch.initial} to {batch.max} samples,"
        f" micro-batches of {batch.micro_batch_size}, at most {batch.max_accumulation} per worker"
        f" before more are asked for; pods {pods.min} to {pods.max}{allowed},"
        f" {pods.workers_per_pod} worker(s) each"
    )
