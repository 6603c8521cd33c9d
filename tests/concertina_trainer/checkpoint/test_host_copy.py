from dataclasses import replace

import pytest

from concertina_trainer.checkpoint.host_copy import HostBuffers
from tests.concertina_trainer.checkpoint.states import ENTRIES, holding, same_bits, whole


def test_a_copy_is_bitwise_and_independent() -> None:
    held = holding(3)
    copied = HostBuffers().copy(held, ENTRIES)
    assert copied is not None
    for tensor in held.tensors.values():
        tensor.zero_()
    for name, want in whole(3).items():
        assert same_bits(copied.holding.tensors[name], want), name
    assert (copied.holding.step, copied.holding.extra) == (3, held.extra)


def test_only_the_tensors_that_were_asked_for_are_copied() -> None:
    copied = HostBuffers().copy(holding(3), ["model/bias"])
    assert copied is not None
    assert set(copied.holding.tensors) == {"model/bias"}


def test_memory_in_use_is_never_overwritten() -> None:
    buffers = HostBuffers()
    first = buffers.copy(holding(1), ENTRIES)
    second = buffers.copy(holding(2), ENTRIES)
    assert buffers.copy(holding(3), ENTRIES) is None
    for copied, step in ((first, 1), (second, 2)):
        assert copied is not None
        for name, want in whole(step).items():
            assert same_bits(copied.holding.tensors[name], want)


def test_memory_is_used_again_also_for_a_smaller_part() -> None:
    buffers = HostBuffers(num_sets=1)
    addresses = set()
    for world_size in (1, 2, 4, 1):
        copied = buffers.copy(holding(1, world_size=world_size), ENTRIES)
        assert copied is not None
        addresses.add(copied.holding.tensors["model/embed"].data_ptr())
        buffers.release(copied)
    assert len(addresses) == 1


def test_a_copy_that_fails_gives_its_memory_back() -> None:
    buffers = HostBuffers(num_sets=1)
    held = holding(1)
    broken = replace(held, tensors={"model/bias": held.tensors["model/bias"].to_sparse()})
    with pytest.raises(RuntimeError):
        buffers.copy(broken, ["model/bias"])
    assert buffers.copy(held, ENTRIES) is not None


def test_copies_lack_what_is_not_there_yet() -> None:
    buffers = HostBuffers(num_sets=2)
    assert buffers.lacking(2**16) == 2 * 2**16
    buffers.reserve(2**15, pinned=False)
    assert buffers.lacking(2**16) == 2**16 + 2**15
    assert buffers.lacking(2**10) == 2**10


def test_reserved_memory_serves_the_first_copy() -> None:
    buffers = HostBuffers(num_sets=1)
    buffers.reserve(2**16, pinned=False)
    copied = buffers.copy(holding(1), ENTRIES)
    assert copied is not None
    assert copied.holding.tensors["model/embed"].untyped_storage().nbytes() == 2**16
