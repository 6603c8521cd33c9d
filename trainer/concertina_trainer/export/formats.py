"""Writes an export in one of its formats, whole or not at all.

Called by the command. Each takes the tensors of contents.py and asks for one at a time.
"""

import copy
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.state_dict_saver import save

from concertina_api.errors import InvalidJob
from concertina_trainer.checkpoint.files import sync_folder, temporary_name
from concertina_trainer.checkpoint.folder_storage import FolderStorage
from concertina_trainer.checkpoint.tensor_file import write_tensors
from concertina_trainer.export.contents import Exported


def write_safetensors(path: Path, tensors: Sequence[Exported]) -> None:
    """One safetensors file. Raises OSError, CheckpointInvalid."""
    by_name = {tensor.spec.name: tensor for tensor in tensors}
    write_tensors(
        FolderStorage(path.parent),
        path.name,
        specs=[tensor.spec for tensor in tensors],
        tensor=lambda name: by_name[name].read(),
        # transformers refuses a file that does not say which framework wrote it.
        metadata={"format": "pt"},
    )


def write_hugging_face(folder: Path, tensors: Sequence[Exported], *, model: nn.Module) -> None:
    """A folder for `from_pretrained`: configuration and weights.

    The hook is that of transformers: `model.config.save_pretrained`, and that of
    `model.generation_config` if there is one. Raises InvalidJob when the model has none.
    """
    config: Any = copy.deepcopy(getattr(model, "config", None))
    if not hasattr(config, "save_pretrained"):
        raise InvalidJob(
            f"{type(model).__name__} is no Hugging Face model: its `config` cannot"
            " save_pretrained(); export it with --format safetensors"
        )
    config.architectures = [type(model).__name__]
    dtypes = {t.spec.dtype for t in tensors if t.spec.dtype.is_floating_point}
    if len(dtypes) == 1:
        config.dtype = dtypes.pop()
    with _whole_folder(folder) as unfinished:
        config.save_pretrained(unfinished)
        generation: Any = getattr(model, "generation_config", None)
        if generation is not None:
            generation.save_pretrained(unfinished)
        write_safetensors(unfinished / "model.safetensors", tensors)


def write_dcp(folder: Path, tensors: Sequence[Exported]) -> None:
    """A torch distributed checkpoint, for `torch.distributed.checkpoint.load`.

    Raises OSError, CheckpointInvalid.
    """
    by_name = {tensor.spec.name: tensor for tensor in tensors}
    shapes = {
        name: torch.empty(tensor.spec.shape, dtype=tensor.spec.dtype, device="meta")
        for name, tensor in by_name.items()
    }

    class Planner(DefaultSavePlanner):
        def lookup_object(self, index: MetadataIndex) -> torch.Tensor:
            return by_name[index.fqn].read()

    with _whole_folder(folder) as unfinished, warnings.catch_warnings():
        # That one process saves alone is meant.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        writer = FileSystemWriter(unfinished, thread_count=1)
        save(shapes, storage_writer=writer, planner=Planner(), no_dist=True)


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when it is complete."""
    unfinished = temporary_name(folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync_folder(folder.parent)
