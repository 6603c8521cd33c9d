"""Weights to start from: a safetensors file, a Hugging Face folder, or another job's checkpoint.

Called at a first start when the task names weights; each rank reads only its rows. Nothing that
has to be unpickled is read, because a pickle runs whatever code it carries: for such files the
error names the command by which their owner may convert them.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from concertina_api.errors import CheckpointInvalid, InvalidJob
from concertina_trainer.checkpoint.folder_storage import FolderStorage
from concertina_trainer.checkpoint.format import MANIFEST
from concertina_trainer.checkpoint.names import state_names, tensor_names
from concertina_trainer.checkpoint.reader import Checkpoint, open_checkpoint, read_rows, read_whole
from concertina_trainer.checkpoint.tensor_file import TensorFile
from concertina_trainer.checkpoint.tensor_layout import TensorSpec
from concertina_trainer.sharding.layout import row_range
from concertina_trainer.sharding.state import Kind
from concertina_trainer.task import Built

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_LISTED = 8
"""Names in an error; the rest is counted."""


class WeightSource(Protocol):
    """Tensors by name, read by rows."""

    path: Path

    def specs(self) -> Mapping[str, TensorSpec]:
        """Name, dtype and shape of all tensors. Raises CheckpointInvalid."""

    def read(self, name: str, *, start: int, into: torch.Tensor) -> None:
        """Fill `into` with the rows of `name` from `start` on, converted to its dtype."""


def load_weights(
    path: Path, built: Built, *, world_size: int, rank: int
) -> dict[str, torch.Tensor]:
    """What `rank` holds of the weights in `path`, by names of entries (`model/...`, `buffer/...`).

    `built` is the model on the meta device. What `prepare` added to the model (adapters) is not
    in the result unless the source has it: its values are those of the seed.
    Raises InvalidJob with all names that are missing or unexpected and all shapes that differ.
    """
    source = open_source(path)
    parameters = dict(built.model.named_parameters())
    tensors = {**parameters, **dict(built.model.named_buffers())}
    names = dict(tensor_names(built.model))
    loaded = {}
    for raw, found in match(source, built).items():
        target = tensors[raw]
        if raw in parameters:
            start, stop = row_range(len(target), world_size=world_size, rank=rank)
            rows = torch.empty((stop - start, *target.shape[1:]), dtype=target.dtype, device="cpu")
            source.read(found, start=start, into=rows)
            loaded[f"model/{names[raw]}"] = rows
        else:
            whole = torch.empty(target.shape, dtype=target.dtype, device="cpu")
            source.read(found, start=0, into=whole)
            loaded[f"buffer/{names[raw]}"] = whole
    return loaded


def match(source: WeightSource, built: Built) -> dict[str, str]:
    """Name of a parameter or buffer of the model -> name of its values in the source.

    A tensor is looked for under its name in `build()`, under its name in the prepared model, and
    under the names it is tied to. Raises InvalidJob.
    """
    specs = source.specs()
    names = dict(tensor_names(built.model))
    keys = state_names(built.model)
    persistent = set(keys.values())
    matched: dict[str, str] = {}
    missing, differing = [], []
    accepted: set[str] = set()
    tensors = {**dict(built.model.named_parameters()), **dict(built.model.named_buffers())}
    for raw, plain in names.items():
        tied = [key for key, name in keys.items() if name == plain]
        candidates = [built.weight_names.get(raw, plain), plain, *tied]
        accepted.update(candidates)
        found = next((name for name in candidates if name in specs), None)
        if found is None:
            if raw in built.weight_names and plain in persistent:
                missing.append(built.weight_names[raw])
        elif specs[found].shape != tuple(tensors[raw].shape):
            differing.append(f"{found} {specs[found].shape} for {tuple(tensors[raw].shape)}")
        else:
            matched[raw] = found
    unexpected = sorted(specs.keys() - accepted)
    complaints = {"missing": missing, "unexpected": unexpected, "of another shape": differing}
    if any(complaints.values()):
        raise InvalidJob(
            f"the weights in {source.path} do not fit the model:\n"
            + "\n".join(f"  {_listed(what, of)}" for what, of in complaints.items() if of)
        )
    return matched


def open_source(path: Path) -> WeightSource:
    """What is at `path`. Raises InvalidJob when it cannot be used, saying why."""
    try:
        if path.is_file():
            if path.suffix in _PICKLES:
                raise InvalidJob(_is_pickle(path))
            return _Files(path, [path])
        if (path / MANIFEST).exists():
            return _State(path, open_checkpoint(path))
        if (path / _INDEX).exists():
            return _Files(path, _indexed(path))
        if (path / _SINGLE).exists():
            return _Files(path, [path / _SINGLE])
    except (CheckpointInvalid, OSError) as error:
        raise InvalidJob(f"weights cannot be read: {error}") from error
    if (path / ".metadata").exists():
        raise InvalidJob(_is_distributed(path))
    for found in path.glob("*") if path.is_dir() else ():
        if found.suffix in _PICKLES:
            raise InvalidJob(_is_pickle(found))
    raise InvalidJob(
        f"no weights at {path}: expected a safetensors file, or a folder with {_SINGLE},"
        f" {_INDEX} or {MANIFEST}"
    )


class _Files:
    """One safetensors file or several."""

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = path
        self._files: dict[str, TensorFile] = {}
        for file in files:
            opened = TensorFile(FolderStorage(file.parent), file.name)
            for name in opened.names:
                if name in self._files:
                    raise CheckpointInvalid(f"{path}: two files hold {name}")
                self._files[name] = opened

    def specs(self) -> Mapping[str, TensorSpec]:
        return {name: file.spec(name) for name, file in self._files.items()}

    def read(self, name: str, *, start: int, into: torch.Tensor) -> None:
        self._files[name].read_rows(name, start=start, into=into)


class _State:
    """The model of a Concertina checkpoint."""

    def __init__(self, path: Path, checkpoint: Checkpoint) -> None:
        self.path = path
        self._checkpoint = checkpoint
        self._entries = {
            name.partition("/")[2]: entry
            for name, entry in checkpoint.entries.items()
            if name.startswith(("model/", "buffer/"))
        }

    def specs(self) -> Mapping[str, TensorSpec]:
        return {
            name: TensorSpec(name=name, dtype=entry.dtype, shape=entry.shape)
            for name, entry in self._entries.items()
        }

    def read(self, name: str, *, start: int, into: torch.Tensor) -> None:
        entry = self._entries[name]
        if entry.kind is Kind.SHARDED:
            into.copy_(read_rows(self._checkpoint, entry, start, start + len(into)))
        else:
            into.copy_(read_whole(self._checkpoint, entry))


def _indexed(folder: Path) -> list[Path]:
    """The files that a Hugging Face index names, which must lie beside it."""
    try:
        names = set(json.loads((folder / _INDEX).read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointInvalid(f"{folder / _INDEX} is no index of safetensors files") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointInvalid(f"{folder / _INDEX} names {name!r}, which is not beside it")
    return [folder / name for name in sorted(names)]


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{what}: {', '.join(names[:_LISTED])}{more}"


def _is_pickle(path: Path) -> str:
    return (
        f"{path} is a pickle, which can run any code when it is read, and is refused. If you trust"
        f" where it comes from, convert it:\n  {conversion(path)}"
    )


def _is_distributed(path: Path) -> str:
    return (
        f"{path} is a torch distributed checkpoint, whose metadata is a pickle, which can run any"
        " code when it is read; it is refused. If you trust where it comes from, convert it:\n"
        "  python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
        f" {shlex.quote(str(path))} weights.pt && {conversion(Path('weights.pt'))}"
    )


def conversion(path: Path) -> str:
    """A shell command that makes weights.safetensors of a file that torch.save wrote."""
    return (
        'python -c "import torch, safetensors.torch as s; '
        f"w = torch.load('{path}', weights_only=True); w = w.get('model', w); "
        "s.save_file({k: v.clone() for k, v in w.items()}, 'weights.safetensors')\""
    )
