"""The text of the demo: the sources of the Python standard library, which every machine has.

Read by bytes_lm, in each worker and loader process; about 9 MB, kept in memory only.
"""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from concertina_api.errors import InvalidJob

# Not prose of programmers: tests, tables of characters, generated topics, installed packages.
LEFT_OUT = {"__pycache__", "dist-packages", "encodings", "pydoc_data", "site-packages"}
LEFT_OUT |= {"idle_test", "test", "tests"}
HELD_OUT_OF = 16
"""One file in this many is for validation, chosen by the hash of its path."""


class Corpus(NamedTuple):
    """Bytes of all files, one after the other, as uint8."""

    training: NDArray[np.uint8]
    validation: NDArray[np.uint8]


@cache
def read_corpus(folder: Path | None = None) -> Corpus:
    """Every `*.py` below `folder` (default: the standard library), by sorted relative path.

    Whole files are held out, so that no validation text stands beside training text. Raises
    InvalidJob when either part would be empty.
    """
    root = folder or Path(sysconfig.get_path("stdlib"))
    training, validation = bytearray(), bytearray()
    for name in sorted(_sources(root)):
        held_out = int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_OF == 0
        (validation if held_out else training).extend((root / name).read_bytes())
    if not training or not validation:
        raise InvalidJob(f"{root} has too few *.py files to train and to validate on")
    return Corpus(np.frombuffer(training, np.uint8), np.frombuffer(validation, np.uint8))


def _sources(root: Path) -> Iterator[str]:
    """Paths of the files relative to `root`, without entering what is left out."""
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if name not in LEFT_OUT]
        for name in files:
            if name.endswith(".py"):
                yield (Path(folder) / name).relative_to(root).as_posix()
