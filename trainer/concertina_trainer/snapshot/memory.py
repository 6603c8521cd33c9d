"""Whether snapshots fit into the pod's memory.

Called by snapshots.py when a round begins. Pure: pod_memory.py says what there is.
"""

from concertina_trainer.pod_memory import HostMemory

NUM_SETS = 2
"""The newest complete one, and one being filled."""
NUM_SHARDS = 2
"""In each: the worker's own, and its neighbour's."""
_GIB = 2**30


def shortage(memory: HostMemory, *, shard_bytes: int, workers: int, taken: int, others: int) -> str:
    """Why snapshots do not fit, with the sizes; empty when they do.

    `shard_bytes`: of the largest shard; `workers`: of the pod, all of which keep snapshots;
    `taken`: what they hold already for them, a part of what is used; `others`: what they will yet
    take for checkpoints, which go before snapshots.
    """
    needed = NUM_SETS * NUM_SHARDS * shard_bytes * workers
    free = memory.limit - memory.used + taken - others
    if needed <= free:
        return ""
    beside = f" beside {others / _GIB:.2f} GiB for checkpoints" if others else ""
    return (
        f"snapshots need {needed / _GIB:.2f} GiB of the pod's memory ({NUM_SETS} sets of"
        f" {NUM_SHARDS} shards of {shard_bytes / _GIB:.2f} GiB for {workers} workers), but"
        f" {max(0, free) / _GIB:.2f} GiB of {memory.limit / _GIB:.2f} GiB are free{beside}"
    )
