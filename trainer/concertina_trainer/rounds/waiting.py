"""Waits for collectives so that a broken connection always ends the waiting.

gloo tells the end of a connection only to the operations that wait for their turn. A collective
whose last tensor is on its way out, or partly here, waits on for the timeout of its group, and
nothing can wake it (Pair::signalException in gloo/transport/tcp/pair.cc; see
sharding/messages.py, which has other means for messages between two). So who waits looks now and
then whether the connections to all peers are there still, and gives up if not.
"""

import ctypes
import time
from datetime import timedelta

import torch.distributed as dist

from concertina_trainer.rounds.transport import Groups

LOOK = timedelta(seconds=0.5)
"""Between two looks at the connections. Only who waits for so long looks at all."""
GRACE_SECONDS = 0.5
"""How long a collective may go on without a connection: the rest may be here already."""
CLOSING_SECONDS = 15.0
"""The same where who is done first closes its groups in good order, while others still wait."""
_GOES_ON = "Operation timed out!"
"""What torch says when the time for waiting is over; gloo's own timeouts read otherwise."""


def finish(
    work: dist.Work | None,
    groups: Groups,
    group: dist.ProcessGroup | None = None,
    *,
    grace_seconds: float = GRACE_SECONDS,
) -> None:
    """Return when a collective on a group of `groups` is done; by default on that of the tensors.

    Without work it is done already. Raises what `transport.is_broken` knows when it fails, or goes
    on for `grace_seconds` although a connection has ended. Its tensors are not to be used then:
    gloo holds them for the timeout of the group at most.
    """
    if work is None:
        return
    if dist.get_backend(group) != "gloo":
        work.wait()
        return
    cut_at: float | None = None
    while not _is_done(work):
        now = time.monotonic()
        if groups.is_cut():
            cut_at = cut_at or now
            if now - cut_at >= grace_seconds:
                _keep_for_ever(group or dist.distributed_c10d._get_default_group())
                raise dist.DistBackendError("a connection to a peer has ended under a collective")


def _is_done(work: dist.Work) -> bool:
    try:
        work.wait(LOOK)
    except RuntimeError as error:
        if str(error).startswith(_GOES_ON):
            return False
        raise
    return True


def _keep_for_ever(group: dist.ProcessGroup) -> None:
    """Never destruct a group, because that would wait for its operations.

    What stays is some threads and descriptors; its connections end when the round is broken off.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))
