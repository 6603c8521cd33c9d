import multiprocessing as mp
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.data import default_collate

from concertina_api.errors import InvalidJob, SampleFailed, TrainingFailed
from concertina_trainer.agent.under_way import UnderWay
from concertina_trainer.data.loader import Loader
from concertina_trainer.data.micro_batches import MicroBatches
from concertina_trainer.schedule.order import Shuffled


def wait_until(condition, *, deadline_seconds=60.0):
    deadline = time.monotonic() + deadline_seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


class InOrder:
    def index(self, sample):
        return sample


class Numbers:
    """Sample i is i, with a few types and shapes around it."""

    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        return {
            "number": index,
            "half": torch.full((3,), index, dtype=torch.bfloat16),
            "even": torch.tensor(index % 2 == 0),
            "none": torch.empty(0, 2),
        }


class Noisy:
    """Draws from its generator alone."""

    def __len__(self):
        return 100

    def item(self, index, generator):
        return index + torch.rand(4, generator=generator)


class Gated:
    """Writes down what begins to load; waits for the file `gate` before it is loaded."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        with (self.folder / f"begun-{index}").open("a") as begun:
            begun.write("x")
        wait_until((self.folder / "gate").exists)
        return index

    def begun(self):
        return {int(p.name.removeprefix("begun-")) for p in self.folder.glob("begun-*")}


class Deadly:
    def __len__(self):
        return 100

    def __getitem__(self, index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


class Faulty:
    def __len__(self):
        return 100

    def __getitem__(self, index):
        if index == 7:
            raise KeyError("no such file")
        return index


def micro_batches(dataset, *, m=1, order=None, seed=0):
    return MicroBatches(
        dataset=dataset,
        collate=default_collate,
        order=order or InOrder(),
        seed=seed,
        micro_batch_size=m,
    )


def make(factory, *args, **kwargs):
    """What a loader process calls to make its data."""
    return micro_batches(factory(*args), **kwargs)


def loader(factory, *args, num_processes=1, depth=None, **kwargs):
    return Loader(
        make(factory, *args, **kwargs),
        recreate=partial(make, factory, *args, **kwargs),
        num_processes=num_processes,
        depth=depth,
    )


def pids(one):
    one.warm_up()
    return [process._process.pid for process in one._processes]


def num_open_files(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_loads_what_the_worker_would_load():
    order = Shuffled(num_samples=10_000, seed=5)
    firsts = [0, 8, 16, 9_996, 24]
    with loader(Numbers, m=4, order=order, num_processes=2) as one:
        one.aim(firsts)
        for first in firsts:
            want = make(Numbers, m=4, order=order).load(first)
            got = one.get(first)
            assert got.keys() == want.keys()
            for key in want:
                torch.testing.assert_close(got[key], want[key], rtol=0, atol=0)
                assert got[key].dtype == want[key].dtype


@pytest.mark.parametrize("num_processes", [0, 1])
def test_what_was_not_aimed_at_is_loaded_all_the_same(num_processes):
    with loader(Numbers, m=2, num_processes=num_processes) as one:
        one.aim([0, 2])
        assert one.get(6)["number"].tolist() == [6, 7]
        assert one.get(0)["number"].tolist() == [0, 1]
        assert one.get(2)["number"].tolist() == [2, 3]
        assert one.get(0)["number"].tolist() == [0, 1]
        assert one.wait_seconds > 0


def test_augmentation_depends_on_the_sample_number_and_the_seed_only():
    def samples(m, seed, numbers):
        batches = make(Noisy, m=m, order=Shuffled(num_samples=100, seed=1), seed=seed)
        return torch.cat([batches.load(first) for first in numbers])

    by_four = samples(4, 9, [0, 4, 8])
    assert torch.equal(by_four, samples(2, 9, [0, 2, 4, 6, 8, 10]))
    assert not torch.equal(by_four, samples(4, 10, [0, 4, 8]))
    # The second epoch draws anew, also where it meets the same index.
    order = Shuffled(num_samples=100, seed=1)
    again = next(n for n in range(100, 200) if order.index(n) == order.index(0))
    assert not torch.equal(samples(1, 9, [0]), samples(1, 9, [again]))


class Stock:
    """Augments from the global generator, as stock transforms do."""

    def __len__(self):
        return 100

    def __getitem__(self, index):
        return index + torch.rand(2)


def test_stock_augmentation_is_the_same_in_a_process_and_whatever_came_before():
    with loader(Stock, m=2) as one:
        one.aim([4])
        torch.manual_seed(0)
        inline = one._batches.load(4)
        torch.manual_seed(1)
        assert torch.equal(one._batches.load(4), inline)
        assert torch.equal(one.get(4), inline)


def test_a_repeat_of_the_last_micro_batch_is_not_loaded_again(tmp_path):
    (tmp_path / "gate").touch()
    with loader(Gated, tmp_path) as one:
        one.aim([0, 1])
        assert [one.get(0).item(), one.get(0).item(), one.get(1).item()] == [0, 0, 1]
        assert (tmp_path / "begun-0").read_text() == "x"


def test_what_is_loading_and_still_wanted_is_kept_and_the_rest_is_cancelled(tmp_path):
    dataset = Gated(tmp_path)
    with loader(Gated, tmp_path, num_processes=2, depth=4) as one:
        one.aim([0, 1, 2, 3])
        wait_until(lambda: dataset.begun() == {0, 1})
        one.aim([1, 5])  # as after a resize: 1 stays ours, 0, 2 and 3 went to others
        (tmp_path / "gate").touch()
        assert one.get(5).tolist() == [5]
        assert one.get(1).tolist() == [1]
        assert dataset.begun() == {0, 1, 5}
        assert (tmp_path / "begun-1").read_text() == "x"


def test_the_nearest_micro_batches_come_first_after_a_new_aim(tmp_path):
    dataset = Gated(tmp_path)
    with loader(Gated, tmp_path, depth=4) as one:
        one.aim([0, 10, 11, 12])
        wait_until(lambda: dataset.begun() == {0})
        one.aim([0, 1, 10])
        (tmp_path / "gate").touch()
        assert one.get(1).tolist() == [1]
        assert dataset.begun() <= {0, 1, 10}


def test_no_more_is_loaded_ahead_than_the_depth(tmp_path):
    (tmp_path / "gate").touch()
    dataset = Gated(tmp_path)
    with loader(Gated, tmp_path, num_processes=2, depth=3) as one:
        one.aim(range(1000))
        for taken in range(10):
            assert one.get(taken).tolist() == [taken]
            assert len(dataset.begun()) <= taken + 1 + 3
        one.aim([])
        assert one._loading == {}


@pytest.mark.parametrize("num_processes", [0, 1])
def test_an_error_of_the_data_set_names_the_sample(num_processes):
    with loader(Faulty, m=4, num_processes=num_processes) as one:
        one.aim([0, 4])
        assert one.get(0).tolist() == [0, 1, 2, 3]
        with pytest.raises(
            SampleFailed, match=r"sample 7 \(index 7 .*KeyError.*no such file"
        ) as at:
            one.get(4)
        assert (at.value.first_sample, at.value.num_samples) == (7, 1)
        one.aim([8])
        assert one.get(8).tolist() == [8, 9, 10, 11]


def test_samples_that_do_not_fit_together_are_named():
    batches = MicroBatches(
        dataset=[torch.zeros(i) for i in range(10)],
        collate=default_collate,
        order=InOrder(),
        seed=0,
        micro_batch_size=2,
    )
    with pytest.raises(SampleFailed, match="collate failed on samples 4 to 5") as at:
        batches.load(4)
    assert (at.value.first_sample, at.value.num_samples) == (4, 2)


def test_a_dead_loader_process_is_a_clear_error():
    with loader(Deadly) as one:
        one.aim([2, 3])
        assert one.get(2).tolist() == [2]
        with pytest.raises(SampleFailed, match=r"loading the samples from 3: killed by SIGKILL"):
            one.get(3)


def test_whoever_asks_finds_which_samples_are_worked_on(tmp_path):
    with UnderWay(tmp_path / "samples") as mark, Loader(make(Numbers, m=4), under_way=mark) as one:
        assert mark.samples() is None
        one.get(8)
        assert mark.samples() == range(8, 12)
        one.done()
        assert mark.samples() is None
        one.get(4)
        one.aim([12])
        assert mark.samples() is None


def refuse():
    raise InvalidJob("no data here")


def test_data_that_cannot_be_made_is_told_when_the_loader_warms_up():
    one = Loader(make(Numbers), recreate=refuse, num_processes=1)
    with one, pytest.raises(TrainingFailed, match="no data here"):
        one.warm_up()


def test_processes_without_a_way_to_make_their_data_are_refused():
    with pytest.raises(ValueError, match="recreate"):
        Loader(make(Numbers), num_processes=1)


def test_thousands_of_batches_leave_no_file_open():
    with loader(Numbers, m=4) as one:
        (child,) = pids(one)
        kept = []
        for number in range(2000):
            one.aim([4 * (number + ahead) for ahead in range(3)])
            kept.append(one.get(4 * number))
            if number == 50:
                want_files = num_open_files("self"), num_open_files(child)
        assert (num_open_files("self"), num_open_files(child)) == want_files
        assert len(kept) == 2000


def test_closing_ends_processes_that_are_stuck_in_the_data_set(tmp_path):
    dataset = Gated(tmp_path)
    with loader(Numbers) as first:  # starts the fork server, which stays
        first.warm_up()
    before = num_open_files("self")
    one = loader(Gated, tmp_path, num_processes=2)
    children = pids(one)
    one.aim([0, 1, 2])
    wait_until(lambda: dataset.begun() == {0, 1})
    one.close()
    one.close()
    assert not any(is_alive(pid) for pid in children)
    assert num_open_files("self") <= before


def test_a_loader_that_is_closed_while_it_starts_leaves_no_process():
    before = set(mp.active_children())
    loader(Numbers, num_processes=2).close()
    assert set(mp.active_children()) == before


def worker(connection, folder):
    one = loader(Gated, folder, num_processes=2)
    one.aim([0, 1])
    connection.send(pids(one))
    connection.recv()


def test_processes_do_not_outlive_a_worker_that_was_killed(tmp_path):
    context = mp.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=worker, args=(theirs, tmp_path))
    process.start()
    children = ours.recv()
    wait_until(lambda: Gated(tmp_path).begun() == {0, 1})
    process.kill()
    process.join()
    wait_until(lambda: not any(is_alive(pid) for pid in children))
