"""Checks a job's model and data set without training: `python -m concertina_trainer.validate FILE`.

Called by `concertina validate` as a process of its own, because the operator's package never
imports torch. The model is built on the meta device only: no memory, no download of weights.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

from concertina_api.errors import ConcertinaError
from concertina_api.location import scheme
from concertina_api.v1alpha1 import JobSpec, RuleName
from concertina_trainer.agent.settings import load_job
from concertina_trainer.checkpoint.storage import storage_at
from concertina_trainer.loading import check_dataset, check_model, load_task
from concertina_trainer.schedule.controller import BatchController


def findings(spec: JobSpec) -> Iterator[str]:
    """What the task is, in a few lines. Raises InvalidJob or MissingPackage for what is wrong."""
    task = load_task(spec)
    model = check_model(task).model
    parameters = list(model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in parameters)
    frozen = "" if trained == total else f", {trained:,} of them trained"
    yield f"model {spec.model}: {total:,} parameters{frozen}"
    length = len(check_dataset(task, spec))
    samples = spec.samples or round((spec.epochs or 0) * length)
    yield f"data set: {length:,} samples; the run takes {samples:,} ({samples / length:.2f} epochs)"
    fewest, most = math.ceil(samples / spec.batch.max), math.ceil(samples / spec.batch.initial)
    yield f"steps: {fewest:,} at batch {spec.batch.max} to {most:,} at batch {spec.batch.initial}"
    if scheme(spec.checkpoint.path) is not None:
        # Its package, not the storage: nothing is asked of a server here.
        yield f"checkpoints: {storage_at(spec.checkpoint.path).location}"
    warmup = spec.learning_rate.warmup_samples
    policy = BatchController.of(spec.batch, total_samples=samples, warmup_samples=warmup).policy
    if spec.batch.rule.name in (RuleName.NORM_TEST, RuleName.NOISE_SCALE):
        yield (
            f"rule {spec.batch.rule.name}: decides every {policy.every_samples:,} samples after the"
            f" first {policy.hold_samples:,}, on an average over {policy.horizon_samples:,}"
        )


def main(path: str) -> int:
    """Prints the findings; the exit code is 0, or that of the error."""
    try:
        for line in findings(load_job(Path(path)).spec):
            print(line, flush=True)  # noqa: T201 - its purpose
    except ConcertinaError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
