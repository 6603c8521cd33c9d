"""Loads micro-batches ahead of a worker, by the numbers of their first samples.

The loop says by `aim` what this worker will need next, in order, and takes it by `get`. After a
resize or a change of the batch it aims anew: what is no longer this worker's is cancelled, what
is already loading or loaded and still wanted is kept. Loader processes live through all resizes.

Each process belongs to one thread here, which sends it a number and waits for the bytes; so a
future that no thread has taken up can still be cancelled, and a process that dies ends its pipe.
Processes come from a fork server, a process without threads or process groups of its own.
"""

import multiprocessing as mp
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import torch

from concertina_api.errors import SampleFailed, TrainingFailed
from concertina_api.v1alpha1 import FailureCause
from concertina_trainer.agent.under_way import UnderWay
from concertina_trainer.causes import (
    Account,
    Elsewhere,
    account_of,
    cause_of_signal,
    signal_name,
)
from concertina_trainer.data.micro_batches import MicroBatches
from concertina_trainer.data.wire import packed, unpacked


class Loader:
    """Micro-batches by first sample number, prefetched in processes or loaded inline."""

    def __init__(
        self,
        batches: MicroBatches,
        *,
        num_processes: int = 0,
        recreate: Callable[[], MicroBatches] | None = None,
        depth: int | None = None,
        under_way: UnderWay | None = None,
    ) -> None:
        """Start the processes; they get ready while the caller goes on.

        `recreate` is pickled to each process and makes its data there, say
        `partial(recreated_batches, spec)`: data sets themselves do not travel. About `depth`
        micro-batches (default: two per process) are loading or waiting at a time, never more
        than twice as many. `under_way` is told which samples are worked on.
        """
        self.wait_seconds = 0.0
        """Time that `get` has kept its callers waiting, in total."""
        self._batches = batches
        self._under_way = under_way
        self._depth = depth or 2 * num_processes
        self._wanted: list[int] = []
        self._loading: dict[int, Future[bytes]] = {}
        self._last: tuple[int, Any] | None = None
        if num_processes and recreate is None:
            raise ValueError("loader processes need `recreate` to make their data")
        self._processes = [_LoaderProcess(recreate) for _ in range(num_processes) if recreate]
        self._idle: SimpleQueue[_LoaderProcess] = SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(max(1, num_processes), thread_name_prefix="loader")
        self._starts = [self._threads.submit(process.start) for process in self._processes]

    def warm_up(self) -> None:
        """Wait until every process has made its data; raises TrainingFailed if one could not."""
        for start in self._starts:
            start.result()

    def aim(self, first_samples: Sequence[int]) -> None:
        """Load these micro-batches next, in this order; cancel every other one."""
        self.done()
        self._wanted = list(first_samples)
        wanted = set(first_samples)
        # A future that can be cancelled has not begun: it is queued again in the new order.
        self._loading = {
            first: future
            for first, future in self._loading.items()
            if not future.cancel() and first in wanted
        }
        self._fill()

    def get(self, first_sample: int) -> Any:
        """The micro-batch that begins at `first_sample`.

        Waits for it when it was aimed at, else loads it here; the one before is not loaded
        again. Raises SampleFailed when the user's data set fails, or a loader process dies.
        """
        if self._under_way is not None:
            end = first_sample + self._batches.micro_batch_size
            self._under_way.begin(range(first_sample, end))
        if self._last is None or self._last[0] != first_sample:
            start = time.monotonic()
            self._last = None
            try:
                self._last = first_sample, self._taken(first_sample)
            finally:
                self.wait_seconds += time.monotonic() - start
        return self._last[1]

    def done(self) -> None:
        """No micro-batch is worked on any more."""
        if self._under_way is not None:
            self._under_way.end()

    def close(self) -> None:
        """End the processes, whatever they are doing. Idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        self._threads.shutdown(wait=True)
        for process in self._processes:
            process.release()
        self._processes.clear()
        self._loading.clear()
        self._last = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _taken(self, first_sample: int) -> Any:
        future = self._loading.pop(first_sample, None)
        if first_sample in self._wanted:
            self._wanted.remove(first_sample)
        if future is None:
            return self._batches.load(first_sample)
        self._fill()
        return unpacked(future.result())

    def _fill(self) -> None:
        for first in self._wanted[: self._depth if self._processes else 0]:
            if first not in self._loading:
                self._loading[first] = self._threads.submit(self._load, first)

    def _load(self, first_sample: int) -> bytes:
        self.warm_up()
        process = self._idle.get()
        try:
            return process.load(first_sample, num_samples=self._batches.micro_batch_size)
        finally:
            self._idle.put(process)


class _LoaderProcess:
    """One loader process, seen from the worker; `kill` may come at any time from any thread."""

    def __init__(self, make: Callable[[], MicroBatches]) -> None:
        context = mp.get_context("forkserver")
        # torch is imported once, in the fork server; the default would import the main module.
        context.set_forkserver_preload([__name__])
        self._connection, self._theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self._theirs, make), daemon=True, name="concertina-loader"
        )
        self._starting = threading.Lock()
        self._ended = False

    def start(self) -> None:
        """Start the process and wait until it has made its data.

        The first start waits for the fork server, which takes as long as importing torch.
        """
        with self._starting:
            if self._ended:
                return
            self._process.start()
            self._theirs.close()
        try:
            self._receive("making its data set")
        except Elsewhere as error:
            raise TrainingFailed(str(error)) from error

    def load(self, first_sample: int, *, num_samples: int) -> bytes:
        """The micro-batch as bytes; raises SampleFailed."""
        try:
            with suppress(BrokenPipeError):  # told by what it answers, or by its end
                self._connection.send(first_sample)
            return self._receive(f"loading the samples from {first_sample}")
        except Elsewhere as error:
            told = error.account.samples or range(first_sample, first_sample + num_samples)
            raise SampleFailed(
                str(error), first_sample=told.start, num_samples=len(told)
            ) from error

    def kill(self) -> None:
        """End the process; a thread that waits for it gets TrainingFailed."""
        with self._starting:
            self._ended = True
            if self._process.pid is not None:
                self._process.kill()

    def release(self) -> None:
        """Give back what the process took here, once no thread uses it."""
        if self._process.pid is not None:
            self._process.join()
            self._process.close()
        self._theirs.close()
        self._connection.close()

    def _receive(self, activity: str) -> bytes:
        """The answer; raises Elsewhere with what the process tells, or how it ended."""
        try:
            account: Account | None = self._connection.recv()
            if account is None:
                return self._connection.recv_bytes()
        except (EOFError, ConnectionResetError) as error:
            raise Elsewhere(self._death(activity)) from error
        raise Elsewhere(account)

    def _death(self, activity: str) -> Account:
        self._process.join(timeout=10)
        code = self._process.exitcode or 0
        how = f"killed by {signal_name(-code)}" if code < 0 else f"exit code {code}"
        return Account(
            cause=cause_of_signal(-code) if code < 0 else FailureCause.EXCEPTION,
            message=f"loader process {self._process.pid} died while {activity}: {how}",
        )


def _serve(connection: Connection, make: Callable[[], MicroBatches]) -> None:
    """Body of a loader process: a number comes in, a micro-batch goes out."""
    # Ctrl-C is for the worker, which finishes its step and needs its data for that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    torch.set_num_threads(1)
    with suppress(EOFError, ConnectionError):  # the worker is gone
        try:
            batches = make()
        except Exception as error:  # noqa: BLE001 (told to the worker)
            _send(connection, account_of(error))
            return
        _send(connection, b"")
        while True:
            _send(connection, _loaded(batches, connection.recv()))


def _loaded(batches: MicroBatches, first_sample: int) -> bytes | Account:
    try:
        return packed(batches.load(first_sample))
    except Exception as error:  # noqa: BLE001 (told to the worker)
        return account_of(error)


def _send(connection: Connection, answer: bytes | Account) -> None:
    if isinstance(answer, Account):
        connection.send(answer)
    else:
        connection.send(None)
        connection.send_bytes(answer)


def _end_with_the_worker() -> None:
    worker = mp.parent_process()
    if worker is not None:
        worker.join()
        os._exit(0)
