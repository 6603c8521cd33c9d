"""The record of a run: one JSON object a line, in steps.jsonl.

The leader appends; when leadership moves, the next leader goes on in the same file. After a
return to an older state the rows that were rolled back are marked, not removed: each sample
counts once in the rows without the mark.
"""

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

log = logging.getLogger(__name__)


class Record:
    """Appends rows to the record of a run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Write a row, with the time added; returns it as written."""
        full = {key: _plain(value) for key, value in row.items()} | {"time": round(time.time(), 4)}
        line = json.dumps(full, allow_nan=False) + "\n"
        try:
            with self._path.open("a+b") as file:
                # A line that was cut short by the end of its writer stays a line of its own.
                if file.tell() and not _ends_a_line(file):
                    file.write(b"\n")
                file.write(line.encode())
        except OSError as error:
            # A full disk must not end training; the row is in the log instead.
            log.warning("a row of the record is not written: %s: %s", error, line.rstrip())
        return full

    def roll_back(self, *, step: int, samples: int) -> int:
        """Mark all rows after this state as discarded; returns how many there were."""
        if not self._path.exists():
            return 0
        lines, marked = [], 0
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # a line cut short by the end of its writer
            later = row.get("step", 0) > step or row.get("samples", 0) > samples
            if later and not row.get("discarded"):
                row["discarded"] = True
                marked += 1
            lines.append(json.dumps(row))
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        temporary.replace(self._path)
        return marked


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
