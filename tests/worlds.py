"""Runs test functions in small worlds of processes that share a gloo process group.

Starting a process and importing torch costs seconds, so `run` keeps a pool of at most four
processes that are forked from a server which has torch imported, and gives each call a fresh
group over a fresh store. A process that died or hangs is killed and replaced. Tests that kill
processes start their own with `spawn`.
"""

import atexit
import gc
import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

MAX_WORLD_SIZE = 4
_GRACE_SECONDS = 5.0
"""How long the other ranks may go on after the first has failed."""

# The server inherits the environment; one thread per process keeps four processes on two cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
_context = multiprocessing.get_context("forkserver")
# The server finds the preloaded module by its environment, not by this process's path.
_ROOT = str(Path(__file__).parent.parent)
os.environ["PYTHONPATH"] = os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
_context.set_forkserver_preload(["tests.preload", "pytest", "hypothesis"])


class WorldFailed(AssertionError):
    """A rank raised, died or did not end in time; the message holds the first traceback."""


def run(
    function: Callable[..., Any], world_size: int, *args: Any, timeout_seconds: float = 120
) -> list[Any]:
    """Results of `function(*args)`, by rank, from `world_size` processes in one gloo group.

    `function` is a top-level function of an importable module; it asks torch.distributed for its
    rank. Arguments and results travel by pickle. Raises WorldFailed.
    """
    from torch.distributed import TCPStore

    if not 1 <= world_size <= MAX_WORLD_SIZE:
        raise ValueError(f"world size {world_size} is outside 1 to {MAX_WORLD_SIZE}")
    call = pickle.dumps((function, args))
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    members = _workers(world_size)
    for rank, member in enumerate(members):
        member.send((rank, world_size, store.port, timeout_seconds, call))
    results = _collect(dict(enumerate(members)), timeout_seconds)
    return [results[rank] for rank in range(world_size)]


def spawn(function: Callable[..., Any], *args: Any) -> BaseProcess:
    """A started process that runs `function(*args)` without a process group.

    It ends with the test session at the latest; its exit code is 1 when the function raises.
    """
    process = _context.Process(target=_run_alone, args=(function, args), daemon=True)
    process.start()
    return process


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a rank has no result."""

    at: float
    """Monotonic time, one clock for all processes: the earliest failure is the cause."""
    message: str


class _Worker:
    """One process of the pool and the pipe to it."""

    def __init__(self) -> None:
        self.pipe, theirs = _context.Pipe()
        self.process = _context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def send(self, message: object) -> None:
        self.pipe.send_bytes(pickle.dumps(message))

    def kill(self) -> int | None:
        """Ends the process at once and returns its exit code."""
        self.process.kill()
        self.pipe.close()
        self.process.join()
        exit_code = self.process.exitcode
        self.process.close()
        return exit_code


_pool: list[_Worker] = []


@atexit.register
def _close_pool() -> None:
    while _pool:
        _pool.pop().kill()


def _workers(count: int) -> list[_Worker]:
    while len(_pool) < count:
        _pool.append(_Worker())
    return _pool[:count]


def _collect(members: Mapping[int, _Worker], timeout_seconds: float) -> dict[int, Any]:
    """Results by rank; on a failure every member that has not answered is killed."""
    waiting = {member.pipe: rank for rank, member in members.items()}
    results: dict[int, Any] = {}
    failures: list[tuple[float, str]] = []
    deadline = time.monotonic() + timeout_seconds
    while waiting and (ready := wait(list(waiting), max(0.0, deadline - time.monotonic()))):
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = waiting.pop(pipe)
            answer = _receive(members[rank], rank)
            if isinstance(answer, _Failure):
                failures.append((answer.at, answer.message))
                deadline = min(deadline, time.monotonic() + _GRACE_SECONDS)
            else:
                results[rank] = answer
    for rank in waiting.values():
        _discard(members[rank])
    if failures:
        raise WorldFailed(min(failures)[1])
    if waiting:
        raise WorldFailed(
            f"ranks {sorted(waiting.values())} did not end within {timeout_seconds} s"
        )
    return results


def _receive(member: _Worker, rank: int) -> Any:
    """The result of a rank, or its failure."""
    try:
        answer = pickle.loads(member.pipe.recv_bytes())
    except (EOFError, OSError):
        # A death is the cause of whatever the others report, also when it is noticed last.
        return _Failure(0.0, f"rank {rank} died with exit code {_discard(member)}")
    if isinstance(answer, _Failure):
        return _Failure(answer.at, f"rank {rank} failed:\n{answer.message}")
    return answer


def _discard(member: _Worker) -> int | None:
    _pool.remove(member)
    return member.kill()


def _serve(pipe: Connection) -> None:
    """Body of a pool process: one call after another until the pipe closes."""
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            rank, world_size, port, timeout_seconds, call = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        with _group(rank, world_size, port, timeout_seconds):
            answer = _answer(call)
        gc.collect()  # old FSDP modules are reference cycles that hold sockets of their group
        pipe.send_bytes(answer)


def _answer(call: bytes) -> bytes:
    try:
        function, args = pickle.loads(call)
        return pickle.dumps(function(*args))
    except BaseException:  # noqa: BLE001 - whatever a test raises goes to its caller
        return pickle.dumps(_Failure(time.monotonic(), traceback.format_exc()))


@contextmanager
def _group(rank: int, world_size: int, port: int, timeout_seconds: float) -> Iterator[None]:
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore("world/", store),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_seconds),
    )
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _run_alone(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    function(*args)
