"""Virtual time: events in order, and processes that may be killed or frozen wherever they wait.

A process runs product code as it is: what would block (a poll of a store, a collective) switches
to the kernel and comes back at a later virtual time. One thread, no wall clock; the order of all
things is a function of the seed.
"""

import heapq
import itertools
from collections.abc import Callable
from random import Random
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet


class Kernel:
    """The clock, the queue of events and the only source of randomness."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = Random(seed)
        self.num_events = 0
        self.trace: list[str] | None = None
        self._queue: list[tuple[float, int, Callable[..., None], tuple]] = []
        self._numbers = itertools.count()
        self._hub = getcurrent()
        self._pollers: dict[Process, None] = {}
        self.running: Process | None = None
        self._processes: list[Process] = []

    def bury(self) -> None:
        """Free all stacks; nothing is run any more."""
        for process in self._processes:
            process.dead = True
        for process in self._processes:
            process.unwind()

    def register(self, process: "Process") -> None:
        """A process begins."""
        self._processes.append(process)

    def after(self, seconds: float, act: Callable[..., None], *arguments: object) -> None:
        """Have `act` called in so many seconds of virtual time."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._numbers), act, arguments))

    def some(self, low: float, high: float) -> float:
        """A random number of seconds."""
        return low + (high - low) * self.random.random()

    def run(self, *, until: float, stop: Callable[[], bool]) -> None:
        """Let things happen until `stop`, at most up to a time."""
        while self._queue and self._queue[0][0] <= until and not stop():
            moment, _, act, arguments = heapq.heappop(self._queue)
            self.now = max(self.now, moment)
            self.num_events += 1
            act(*arguments)

    def say(self, text: str) -> None:
        """A line of the trace, if somebody wants to read it."""
        if self.trace is not None:
            self.trace.append(f"{self.now:10.3f}  {text}")

    def poke(self) -> None:
        """Something has changed that a poll may be waiting for."""
        for process in list(self._pollers):
            process.wake(self.some(0.002, 0.02))

    # Called by product code inside a process, through the seams.

    def poll(self) -> None:
        """A pause between two looks: until something has changed, for want of a finer grain."""
        process = self.running
        assert process is not None
        self._pollers[process] = None
        try:
            process.pause(1.0)
        finally:
            del self._pollers[process]

    def switch_to(self, process: "Process", coroutine: greenlet) -> None:
        assert getcurrent() is self._hub, "processes are resumed by events only"
        self.running = process
        coroutine.switch()
        self.running = None

    def back(self) -> None:
        """Leave the running process."""
        self._hub.switch()


class Process:
    """Something that runs, waits, and can end at any wait."""

    def __init__(
        self, kernel: Kernel, name: str, body: Callable[[], None], *, owner: Any = None
    ) -> None:
        self.kernel = kernel
        self.owner = owner
        self.name = name
        self.dead = False
        self.frozen = False
        self._ticket = 0
        self._late: list[int] = []
        self._coroutine = greenlet(self._main)
        self._body = body
        kernel.register(self)
        kernel.after(0.0, self._resume, 0)

    def __repr__(self) -> str:
        return self.name

    def pause(self, seconds: float | None) -> None:
        """Wait for a time, or for `wake`; None: for `wake` alone. Called from inside."""
        self._ticket += 1
        if seconds is not None:
            self.kernel.after(seconds, self._resume, self._ticket)
        self.kernel.back()

    def sleep(self, seconds: float) -> None:
        """Wait for a time, whoever calls `wake`."""
        end = self.kernel.now + seconds
        while self.kernel.now < end:
            self.pause(end - self.kernel.now)

    def wake(self, seconds: float = 0.0) -> None:
        """End the present wait soon."""
        if not self.dead:
            self.kernel.after(seconds, self._resume, self._ticket)

    def kill(self) -> None:
        """No instruction of it is run any more, from the next event on."""
        if not self.dead:
            self.dead = True
            self.kernel.after(0.0, self.unwind)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT: what came meanwhile is seen now."""
        self.frozen = False
        late, self._late = self._late, []
        for ticket in late:
            self.kernel.after(0.0, self._resume, ticket)

    def _main(self) -> None:
        try:
            self._body()
        except GreenletExit:
            pass
        finally:
            self.dead = True

    def _resume(self, ticket: int) -> None:
        if self.dead or ticket != self._ticket:
            return
        if self.frozen:
            self._late.append(ticket)
            return
        self._ticket += 1
        self.kernel.switch_to(self, self._coroutine)

    def unwind(self) -> None:
        """Free the stack; what it still wants to do finds its process dead."""
        if self._coroutine:
            self.kernel.running = self
            self._coroutine.throw()
            self.kernel.running = None
