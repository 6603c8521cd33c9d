"""The command `concertina export`: weights of a run in a format that others read.

Found by the command line through the entry point group `concertina.commands`. A ConcertinaError
becomes a message and an exit code there; what is wrong with the arguments is exit code 2.
"""

import sys
from enum import StrEnum
from pathlib import Path

import click

from concertina_api.errors import CheckpointInvalid
from concertina_api.location import scheme
from concertina_api.v1alpha1 import AdaptiveTrainingJob
from concertina_trainer.agent.settings import load_job
from concertina_trainer.checkpoint.format import LATEST, MANIFEST
from concertina_trainer.checkpoint.reader import Checkpoint, find, open_checkpoint, verify
from concertina_trainer.checkpoint.storage import storage_at
from concertina_trainer.export import contents, formats
from concertina_trainer.export.contents import Exported, Source, Weights
from concertina_trainer.loading import check_model, load_task
from concertina_trainer.loop.saving import checkpoint_location
from concertina_trainer.task import Built


class Format(StrEnum):
    """What an export is written as."""

    SAFETENSORS = "safetensors"
    HUGGING_FACE = "hf"
    DISTRIBUTED = "dcp"


@click.command()
@click.argument("source")
@click.option(
    "--format",
    "format_",
    type=click.Choice([item.value for item in Format]),
    required=True,
    help="One safetensors file, a Hugging Face folder, or a torch distributed checkpoint.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="File or folder to write."
)
@click.option(
    "--average", "weights", flag_value=Weights.AVERAGE.value, help="The averaged weights."
)
@click.option(
    "--job",
    "manifest",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Manifest of the job. Default: job.yaml of the run.",
)
def export(
    source: str, *, format_: str, output: Path, weights: str | None, manifest: Path | None
) -> None:
    """Write the weights of SOURCE, a run's directory or one checkpoint, for use elsewhere.

    SOURCE may be a URL, of one checkpoint or of the folder of a job's checkpoints.
    The names are those of the trained model; in a Hugging Face folder those of the model as it
    was built, with adapters merged into it. Without a manifest (see --job) tied tensors have one
    name, and buffers that a state dict leaves out are there too.
    """
    if output.exists():
        raise click.UsageError(f"--output {output} exists already")
    job = _job(source, manifest)
    checkpoint = _checkpoint(source, job)
    built = _built(job)
    if built is None and format_ == Format.HUGGING_FACE:
        raise click.UsageError("--format hf needs the job's manifest: give it with --job")
    for_weights = Weights(weights or Weights.LAST)
    tensors = _tensors(Source(checkpoint, for_weights), Format(format_), built)
    _verify(checkpoint)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(output, Format(format_), tensors, built)
    except OSError as error:
        raise click.ClickException(f"{output} is not written: {error}") from error
    identity = checkpoint.manifest.identity
    size = sum(tensor.spec.num_bytes for tensor in tensors)
    click.echo(
        f"{output}: {for_weights} weights after step {identity.step} ({identity.samples} samples)"
        f" of {identity.job}, {len(tensors)} tensors, {size / 1e6:.1f} MB"
    )


def _tensors(source: Source, format_: Format, built: Built | None) -> list[Exported]:
    if built is None:
        return contents.stored(source)
    if format_ is Format.HUGGING_FACE:
        return contents.as_built(source, built)
    return contents.as_trained(source, built.model)


def _write(output: Path, format_: Format, tensors: list[Exported], built: Built | None) -> None:
    match format_:
        case Format.SAFETENSORS:
            formats.write_safetensors(output, tensors)
        case Format.HUGGING_FACE:
            assert built is not None
            formats.write_hugging_face(output, tensors, model=built.model)
        case Format.DISTRIBUTED:
            formats.write_dcp(output, tensors)


def _job(source: str, manifest: Path | None) -> AdaptiveTrainingJob | None:
    """The job of --job, else of the run: <run>/job.yaml, <run>/checkpoints/<checkpoint>."""
    folders = () if scheme(source) else (Path(source), *Path(source).resolve().parents[:2])
    near = [folder / "job.yaml" for folder in folders]
    path = manifest or next((path for path in near if path.is_file()), None)
    return None if path is None else load_job(path)


def _checkpoint(source: str, job: AdaptiveTrainingJob | None) -> Checkpoint:
    """The checkpoint in SOURCE. Raises CheckpointInvalid or click's UsageError."""
    if scheme(source) is None and not Path(source).is_dir():
        raise click.UsageError(f"SOURCE: there is no directory {source}")
    try:
        found = _found(source, job)
    except OSError as error:
        raise CheckpointInvalid(f"{source} cannot be read: {error}") from error
    if found is None:
        raise CheckpointInvalid(f"{source} holds no usable checkpoint")
    return found


def _verify(checkpoint: Checkpoint) -> None:
    """Raise CheckpointInvalid when any of it is damaged, before anything is written."""
    try:
        verify(checkpoint, part=0, parts=1)
    except OSError as error:
        raise CheckpointInvalid(f"{checkpoint.location} cannot be read: {error}") from error


def _found(source: str, job: AdaptiveTrainingJob | None) -> Checkpoint | None:
    storage, name = storage_at(source), None
    names = storage.names()
    if MANIFEST in names:
        return open_checkpoint(storage)
    if LATEST not in names and job is not None:
        name = job.metadata.name
        storage = storage_at(checkpoint_location(job.spec, job=name, run_dir=Path(source)))
        names = storage.names()
    if not names:
        raise click.UsageError(
            f"{source} is neither a checkpoint ({MANIFEST}), nor a folder of checkpoints"
            f" ({LATEST}), nor the directory of a run that has saved one"
        )
    return find(storage, job=name)


def _built(job: AdaptiveTrainingJob | None) -> Built | None:
    """The job's model on the meta device."""
    if job is None:
        return None
    # A task may be a module of the present folder, as it may for `python -m`.
    if "" not in sys.path:
        sys.path.insert(0, "")
    return check_model(load_task(job.spec))
