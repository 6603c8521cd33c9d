"""Delivers tensors between processes so that a broken connection always ends the waiting.

Called by the exchange of rows and by the transfer of a snapshot. gloo tells the end of a connection
only to the operations that wait for their turn: a tensor that is partly written or partly read
waits for the timeout of its group (Pair::signalException in gloo/transport/tcp/pair.cc leaves both
out). The receive of a byte that nobody has sent yet does wait for its turn. So, after the tensors,
a sender says with one byte that all are sent and a receiver that all are here; nothing else is
waited for without a bound, and once these bytes have come nothing else takes time.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

PROMPT = timedelta(seconds=15)
"""For what has only to be noted: the other side has said that the bytes were on their way."""


def deliver(messages: Sequence[dist.P2POp]) -> None:
    """Send and receive, and return when all tensors have arrived, here and at the receivers.

    All messages are of one group; each of them needs its counterpart in the same call of the other
    rank, in the same order. Raises what `rounds.transport.is_broken` knows when a peer is gone or
    the connections are shut down. The tensors are no longer touched when it returns or raises.
    """
    if not messages:
        return
    group = messages[0].group
    if dist.get_backend(group) != "gloo":
        for work in dist.batch_isend_irecv(list(messages)):
            work.wait()
        return
    senders = sorted({each.peer for each in messages if each.op is dist.irecv})
    receivers = sorted({each.peer for each in messages if each.op is dist.isend})
    told, heard = (torch.zeros(dist.get_world_size(group), 2, 1, dtype=torch.uint8) for _ in "io")
    noted: list[dist.Work] = []
    words: list[dist.Work] = []
    try:
        noted += [_start(each) for each in messages]
        noted += _start_all(dist.isend, told[:, 0], receivers, group)
        words += _start_all(dist.irecv, heard[:, 0], senders, group)
        words += _start_all(dist.irecv, heard[:, 1], receivers, group)
        for all_are_sent in words[: len(senders)]:
            all_are_sent.wait()
        noted += _start_all(dist.isend, told[:, 1], senders, group)
        for all_are_there in words[len(senders) :]:
            all_are_there.wait()
        for work in noted:
            work.wait(PROMPT)
    finally:
        noted.clear()  # gloo forgets what it has not done, and only then lets go of the memory
        words.clear()


def _start_all(
    op: Callable[..., Any],
    one_each: torch.Tensor,
    peers: Sequence[int],
    group: dist.ProcessGroup | None,
) -> list[dist.Work]:
    return [_start(dist.P2POp(op, one_each[peer], peer, group)) for peer in peers]


def _start(message: dist.P2POp) -> dist.Work:
    work: dist.Work | None = message.op(message.tensor, message.peer, message.group)
    assert work is not None  # only a rank outside the group gets none
    return work
