"""A crash at any moment of a save loses nothing older, and what it left is cleared away."""

import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.concertina_trainer.checkpoint.states import folder_names, found_step, large_entries, save

REPOSITORY = Path(__file__).parents[3]


class Victim:
    """The process that saves and dies."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.concertina_trainer.checkpoint.crashing"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def save_step_2(self, path: Path, **order: float) -> str:
        """Save into `path` until the kill; "killed" or "done"."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"path": str(path), **order}) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    started = Victim()
    yield started
    started.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where possible: a killed process loses nothing that it wrote, and fsync is slow."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


@pytest.fixture
def saved(folder: Path) -> Path:
    """A folder with a checkpoint of step 1, to be copied for every kill."""
    save(folder / "saved", 1, world_size=2)
    return folder / "saved"


def check_survival(path: Path) -> int | None:
    """The step that survived; the next save works and leaves nothing else."""
    survived = found_step(path)
    assert survived in (1, 2)
    save(path, 3, world_size=2, keep=1, round_number=2)
    assert found_step(path) == 3
    assert len(folder_names(path)) == 2, "the newest checkpoint and `latest`"
    return survived


def test_a_kill_before_any_file_operation_of_a_save(
    saved: Path, folder: Path, victim: Victim
) -> None:
    survived = []
    outcome = "killed"
    while outcome == "killed":
        path = folder / "run"
        shutil.copytree(saved, path)
        outcome = victim.save_step_2(path, kill_at=len(survived))
        survived.append(check_survival(path))
        shutil.rmtree(path)
    assert len(survived) > 20, "all steps of the protocol: parts, reports, manifest, removal"
    assert survived == sorted(survived), "once the new one counts it counts for good"
    assert {survived[0], survived[-1]} == {1, 2}


def check_seeded_instants(saved: Path, path: Path, victim: Victim, *, count: int) -> None:
    instants = random.Random(0)
    outcomes = []
    for _ in range(count):
        shutil.copytree(saved, path)
        outcomes.append(victim.save_step_2(path, kill_after_seconds=instants.uniform(0, 0.06)))
        check_survival(path)
        shutil.rmtree(path)
    assert "killed" in outcomes


def test_a_kill_at_seeded_instants(saved: Path, folder: Path, victim: Victim) -> None:
    check_seeded_instants(saved, folder / "run", victim, count=25)


@pytest.mark.matrix
def test_a_kill_at_many_seeded_instants(saved: Path, folder: Path, victim: Victim) -> None:
    check_seeded_instants(saved, folder / "run", victim, count=200)


def test_a_large_state_survives_like_a_small_one(tmp_path: Path) -> None:
    save(tmp_path, 2, world_size=2, entries=large_entries())
    assert found_step(tmp_path) == 2
