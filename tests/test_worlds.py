import gc
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.worlds import WorldFailed, run, spawn


def sum_of_ranks(offset):
    total = torch.tensor(float(dist.get_rank() + offset))
    dist.all_reduce(total)
    return total.item(), os.getpid()


def fail_on_rank_1():
    if dist.get_rank() == 1:
        raise LookupError("rank 1 is out of luck")
    dist.barrier()


def die_on_rank_0():
    if dist.get_rank() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def hang():
    threading.Event().wait()


def open_descriptors():
    gc.collect()
    dist.barrier()
    return len(list(Path("/proc/self/fd").iterdir()))


def test_ranks_share_a_group_and_results_come_by_rank():
    results = run(sum_of_ranks, 3, 10)
    assert [total for total, _ in results] == [33.0] * 3
    assert len({pid for _, pid in results}) == 3


def test_processes_are_kept_between_calls_of_different_size():
    first = [pid for _, pid in run(sum_of_ranks, 2, 0)]
    assert [pid for _, pid in run(sum_of_ranks, 4, 0)][:2] == first
    assert [pid for _, pid in run(sum_of_ranks, 1, 0)] == first[:1]


def test_a_call_leaves_no_descriptor_behind():
    before = run(open_descriptors, 2)
    for _ in range(5):
        run(sum_of_ranks, 2, 0)
    assert run(open_descriptors, 2) == before


def test_a_failure_shows_the_traceback_of_the_rank_that_failed_first():
    with pytest.raises(WorldFailed, match=r"(?s)rank 1 failed.*LookupError: rank 1 is out of luck"):
        run(fail_on_rank_1, 2)
    assert run(sum_of_ranks, 2, 0)[0][0] == 1.0


def test_a_dead_process_is_reported_and_replaced():
    with pytest.raises(WorldFailed, match="rank 0 died with exit code -9"):
        run(die_on_rank_0, 2)
    assert run(sum_of_ranks, 2, 0)[0][0] == 1.0


def test_a_stuck_process_is_killed_and_replaced():
    with pytest.raises(WorldFailed, match=r"ranks \[0, 1\] did not end within 1 s"):
        run(hang, 2, timeout_seconds=1)
    assert run(sum_of_ranks, 2, 0)[0][0] == 1.0


def test_a_world_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="world size 5 is outside 1 to 4"):
        run(hang, 5)


def test_a_spawned_process_can_be_killed():
    process = spawn(hang)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    process.close()
