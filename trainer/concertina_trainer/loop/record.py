"""The record of a run: one JSON object a line, in steps.jsonl.

The leader appends; when leadership moves, the next leader goes on in the same file. After a
return to an older state the rows that were rolled back are marked, not removed: each sample
counts once in the rows without the mark. A row is written with room for its mark, so marking
changes the newest rows where they are: it needs no space on a disk that may be full, and no time
that grows with the run.
"""

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

log = logging.getLogger(__name__)

_KEPT = b', "discarded": false}'
_DISCARDED = b', "discarded": true }'
"""The end of a row; as long as that of one that counts."""
_BLOCK_BYTES = 2**16


class Record:
    """Appends rows to the record of a run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Write a row, with the time added; returns it, without the room for its mark."""
        full = {key: _plain(value) for key, value in row.items()} | {"time": round(time.time(), 4)}
        line = json.dumps(full, allow_nan=False)
        try:
            with self._path.open("a+b") as file:
                # A line that was cut short by the end of its writer stays a line of its own.
                if file.tell() and not _ends_a_line(file):
                    file.write(b"\n")
                file.write(line.removesuffix("}").encode() + _KEPT + b"\n")
        except OSError as error:
            # A full disk must not end training; the row is in the log instead.
            log.warning("a row of the record is not written: %s: %s", error, line)
        return full

    def roll_back(self, *, step: int, samples: int) -> int:
        """Mark all rows after this state as discarded; returns how many were found."""
        found = 0
        try:
            with self._path.open("r+b") as file:
                for start, line in _lines_from_the_end(file):
                    if (row := _counting(line)) is None:
                        continue
                    if row["step"] <= step and row["samples"] <= samples:
                        break  # rows that count are in the order of their steps
                    found += 1
                    file.seek(start + len(line) - len(_KEPT))
                    file.write(_DISCARDED)
        except FileNotFoundError:
            return 0
        except OSError as error:
            # Whoever reads the record may count samples twice; training has not.
            log.warning("rows after step %d of the record are not marked: %s", step, error)
        return found


def _counting(line: bytes) -> dict[str, Any] | None:
    """A row without the mark; None for what is none, or was cut short."""
    if not line.endswith(_KEPT):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if {"step", "samples"} <= row.keys() else None


def _lines_from_the_end(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, the last one first, each with the place of its first byte."""
    start, text = file.seek(0, os.SEEK_END), b""
    while start:
        size = min(start, _BLOCK_BYTES)
        start -= size
        file.seek(start)
        text = file.read(size) + text
        while (cut := text.rfind(b"\n")) >= 0:
            yield start + cut + 1, text[cut + 1 :]
            text = text[:cut]
    yield 0, text


def _ends_a_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _plain(value: object) -> object:
    """JSON has no NaN: a loss that is not finite is null."""
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, float):
        return round(value, 8) if math.isfinite(value) else None
    return value
