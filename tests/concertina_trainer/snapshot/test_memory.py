import pytest

from concertina_trainer.snapshot.memory import HostMemory, host_memory, shortage

GIB = 2**30


@pytest.mark.parametrize(
    ("used", "taken", "want"),
    [
        pytest.param(0, 0, True, id="all is free"),
        pytest.param(4 * GIB, 0, True, id="just enough is free"),
        pytest.param(4 * GIB + 1, 0, False, id="a byte too little"),
        pytest.param(8 * GIB, 4 * GIB, True, id="what snapshots hold already counts as theirs"),
    ],
)
def test_two_sets_of_two_shards_for_each_worker_must_fit(used, taken, want):
    memory = HostMemory(limit=8 * GIB, used=used)

    problem = shortage(memory, shard_bytes=GIB // 2, workers=2, taken=taken)

    assert (problem == "") is want


def test_a_shortage_names_the_sizes():
    memory = HostMemory(limit=2 * GIB, used=GIB)

    assert shortage(memory, shard_bytes=GIB // 2, workers=1, taken=0) == (
        "snapshots need 2.00 GiB of the pod's memory (2 sets of 2 shards of 0.50 GiB for 1"
        " workers), but 1.00 GiB of 2.00 GiB are free"
    )


def machine(root, *, cgroup):
    files = {
        "proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n",
        "proc/self/cgroup": cgroup,
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def group(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(str(text))


def version_2(limit, used, cache=0):
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon {used}\nfile {cache}\n",
    }


def version_1(limit, used, cache=0):
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": f"cache 1\ntotal_cache {cache}\n",
    }


def test_without_a_limit_the_machine_counts(tmp_path):
    machine(tmp_path, cgroup="0::/\n")
    group(tmp_path / "sys/fs/cgroup", version_2("max", GIB))

    assert host_memory(tmp_path) == HostMemory(limit=16 * GIB, used=8 * GIB)


def test_a_container_sees_its_group_at_the_root_and_file_cache_counts_as_free(tmp_path):
    machine(tmp_path, cgroup="0::/\n")
    group(tmp_path / "sys/fs/cgroup", version_2(4 * GIB, 3 * GIB, cache=GIB))

    assert host_memory(tmp_path) == HostMemory(limit=4 * GIB, used=2 * GIB)


def test_the_tightest_of_the_groups_above_counts(tmp_path):
    machine(tmp_path, cgroup="0::/slice/job\n")
    group(tmp_path / "sys/fs/cgroup/slice", version_2(5 * GIB, 4 * GIB))
    group(tmp_path / "sys/fs/cgroup/slice/job", version_2(3 * GIB, GIB))

    assert host_memory(tmp_path) == HostMemory(limit=5 * GIB, used=4 * GIB)


def test_version_1_is_read_too(tmp_path):
    machine(tmp_path, cgroup="4:memory:/job\n0::/\n")
    group(tmp_path / "sys/fs/cgroup/memory", version_1(2**63 - 4096, 9 * GIB))
    group(tmp_path / "sys/fs/cgroup/memory/job", version_1(4 * GIB, 3 * GIB, cache=2 * GIB))

    assert host_memory(tmp_path) == HostMemory(limit=4 * GIB, used=GIB)


def test_a_group_that_cannot_be_read_is_no_limit(tmp_path):
    machine(tmp_path, cgroup="rubbish\n0::/job\n")
    group(tmp_path / "sys/fs/cgroup/job", version_2("rubbish", GIB))

    assert host_memory(tmp_path).limit == 16 * GIB
