"""Reads images in OCI archives: what they say of themselves, and what their layers hold."""

import json
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

REMOVED = ".wh."
"""The beginning of the name of a file that says that a lower layer's file is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of an archive."""

    digest: str
    size: int
    """In bytes, uncompressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What an image says of itself."""

    config: dict[str, Any]
    created: str
    layers: tuple[Layer, ...]
    """From the base up."""


@cache
def describe(archive: Path) -> Description:
    """Read an archive's documents."""
    with tarfile.open(archive) as tar:
        index = _document(tar, "index.json")
        manifest = _document(tar, _blob(index["manifests"][0]["digest"]))
        image = _document(tar, _blob(manifest["config"]["digest"]))
    layers = tuple(Layer(digest=one["digest"], size=one["size"]) for one in manifest["layers"])
    return Description(config=image["config"], created=image["created"], layers=layers)


@contextmanager
def opened(archive: Path, layer: Layer) -> Iterator[tarfile.TarFile]:
    """A layer, as the tar that it is."""
    with _content(archive, layer) as content, tarfile.open(fileobj=content) as tar:
        yield tar


def entries(archive: Path, layer: Layer) -> dict[str, tarfile.TarInfo]:
    """The entries of a layer by their paths, without a slash in front."""
    with opened(archive, layer) as tar:
        return {entry.name.removeprefix("./"): entry for entry in tar}


def unpack(archive: Path, folder: Path) -> None:
    """Lay an image's layers over each other in a folder."""
    for layer in describe(archive).layers:
        with opened(archive, layer) as tar:
            for entry in tar:
                path = PurePosixPath(entry.name)
                if path.name.startswith(REMOVED):
                    _remove(folder / path.with_name(path.name.removeprefix(REMOVED)))
                else:
                    tar.extract(entry, folder, filter="fully_trusted")


def compressed_size(archive: Path, layer: Layer) -> int:
    """About what a registry stores of a layer, in bytes."""
    compressor, size = zlib.compressobj(), 0
    with _content(archive, layer) as content:
        while chunk := content.read(1 << 20):
            size += len(compressor.compress(chunk))
    return size + len(compressor.flush())


@contextmanager
def _content(archive: Path, layer: Layer) -> Iterator[IO[bytes]]:
    with tarfile.open(archive) as tar:
        found = tar.extractfile(_blob(layer.digest))
        assert found is not None, f"{layer.digest} is no file"
        yield found


def _document(tar: tarfile.TarFile, name: str) -> Any:
    content = tar.extractfile(name)
    assert content is not None, f"{name} is no file"
    return json.load(content)


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
