"""Where the output of workers goes: files that stay small, copied to the agent's own output.

The files are what a failure is explained from; whoever wants all of it reads the log of the
container. agent.py gives them to torch, and trims them in its turns.
"""

import ctypes
import logging
import os
from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs

from concertina_trainer.agent.pod import Pod
from concertina_trainer.agent.settings import Settings

logger = logging.getLogger(__name__)

KEPT_BYTES = 16 * 2**20
"""What is kept at least of a file, far more than torch is late in copying it."""
_KEEP_SIZE, _PUNCH_HOLE = 0x1, 0x2
_BLOCK_BYTES = 512


class WorkerLogs(LogsSpecs):
    """A file per worker, stream and incarnation; those of earlier incarnations are removed."""

    def __init__(self, settings: Settings, pod: Pod) -> None:
        super().__init__()
        self._settings = settings
        self._pod = pod
        self._files: list[Path] = []
        self._can_trim = True

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Paths for workers that are about to start, by local rank."""
        for file in self._files:
            file.unlink(missing_ok=True)
        stdouts, stderrs, errors = (
            {rank: self._path(rank, stream) for rank in envs}
            for stream in ("stdout", "stderr", "error.json")
        )
        self._files = [Path(path) for path in (*stdouts.values(), *stderrs.values())]
        for rank, environment in envs.items():
            environment["TORCHELASTIC_ERROR_FILE"] = errors[rank]
        return LogsDest(stdouts, stderrs, stdouts, stderrs, errors)

    def trim(self) -> None:
        """Give back the space of what has become old; to be called every now and then."""
        if not self._can_trim:
            return
        try:
            for file in self._files:
                if file.exists():
                    trim(file)
        except OSError as error:
            self._can_trim = False
            logger.warning("the output of workers is kept whole: %s", error)

    @property
    def root_log_dir(self) -> str:
        """Folder of all files."""
        return str(self._settings.worker_log("", 0, "").parent)

    def _path(self, local_rank: int, stream: str) -> str:
        path = self._settings.worker_log(self._pod.incarnation, local_rank, stream)
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)


def trim(file: Path, *, kept_bytes: int = KEPT_BYTES) -> None:
    """Give back what a file holds before its last bytes, once it holds twice as much.

    Its length stays, so neither who writes it nor who follows it notices (Linux fallocate(2)).
    Raises OSError, also where the file system cannot do it.
    """
    status = file.stat()
    if status.st_blocks * _BLOCK_BYTES < 2 * kept_bytes:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    old = ctypes.c_int64(status.st_size - kept_bytes)
    with file.open("r+b") as opened:
        mode = _KEEP_SIZE | _PUNCH_HOLE
        if libc.fallocate(opened.fileno(), mode, ctypes.c_int64(0), old):
            number = ctypes.get_errno()
            raise OSError(number, f"fallocate(FALLOC_FL_PUNCH_HOLE): {os.strerror(number)}")
