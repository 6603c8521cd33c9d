"""A snapshot on its way: a thread copies the rows, sends them, and receives the neighbour's.

Started by snapshots.py after a step. The next step's forward and backward run meanwhile; they
only read what is copied. The group is the thread's alone, and is destroyed only after the thread
has ended: gloo ends the process of a thread that waits in a group that is gone.
"""

import threading
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist

from concertina_trainer.sharding.messages import deliver
from concertina_trainer.snapshot.ring import Neighbours
from concertina_trainer.snapshot.sets import Shard, SnapshotSet


class Transfer:
    """One snapshot on its way."""

    def __init__(
        self,
        target: SnapshotSet,
        rows: Mapping[str, torch.Tensor],
        *,
        group: dist.ProcessGroup,
        ring: Neighbours,
        reached: Callable[[str], None],
    ) -> None:
        """`rows` are the live tensors; they must not change before `wait_copied` returns."""
        assert target.own is not None
        assert target.kept is not None
        self.target = target
        self._own: Shard = target.own
        self._kept: Shard = target.kept
        self._rows = rows
        self._group = group
        self._ring = ring
        self._reached = reached
        self._copied = threading.Event()
        self._ended = threading.Event()
        self._cancelled = False
        self._stream: torch.cuda.Stream | None = None
        device = next((rows[name].device for name in rows if rows[name].is_cuda), None)
        if device is not None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(device))
        self.error: BaseException | None = None
        """Why the snapshot failed; known once `ended`."""
        self._thread = threading.Thread(target=self._run, name="concertina-snapshot", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """The rows have been sent and received, or that failed."""
        return self._ended.is_set()

    def wait_copied(self) -> None:
        """Wait until the live tensors may change."""
        self._copied.wait()

    def join(self) -> None:
        """Wait for the thread, after `cancel` and the end of the group's connections."""
        self._thread.join()

    def cancel(self) -> None:
        """Copy and send no more than what is under way."""
        self._cancelled = True

    def _run(self) -> None:
        try:
            self._copy()
            self._copied.set()
            self._reached("copied")
            if not self._cancelled:
                self._swap()
                self._reached("sent")
        except Exception as error:  # noqa: BLE001 - a thread's outermost place: told by `error`
            # With its frames it would keep this object, and so the group and its connections.
            self.error = error.with_traceback(None)
        finally:
            self._rows = {}
            self._copied.set()
            self._ended.set()

    def _copy(self) -> None:
        with torch.cuda.stream(self._stream):
            for name, target in self._own.rows.items():
                if self._cancelled:
                    return
                target.copy_(self._rows[name].detach(), non_blocking=True)
        if self._stream is not None:
            self._stream.synchronize()
        self._own.whole = True

    def _swap(self) -> None:
        """Send the own rows to the keeper and receive those of the charge."""
        messages = []
        if self._own.flat.numel():
            messages.append(dist.P2POp(dist.isend, self._own.flat, self._ring.keeper, self._group))
        if self._kept.flat.numel():
            messages.append(dist.P2POp(dist.irecv, self._kept.flat, self._ring.charge, self._group))
        deliver(messages)
        self._kept.whole = True


class Failed:
    """A snapshot that could not begin, where others may have begun theirs: all agree on its end."""

    ended = True

    def __init__(self, target: SnapshotSet, error: Exception) -> None:
        self.target = target
        self.error = error

    def wait_copied(self) -> None:
        """See Transfer."""

    def join(self) -> None:
        """See Transfer."""

    def cancel(self) -> None:
        """See Transfer."""
