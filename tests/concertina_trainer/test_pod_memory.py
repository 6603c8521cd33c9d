"""Groups are folders of files here; a real one is used where this machine lets us make it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from concertina_trainer.pod_memory import HostMemory, PodMemory, host_memory

GIB = 2**30
MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def group(mount, path, **files):
    folder = mount / path.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def memory_of(mount, groups):
    (mount / "self").write_text(groups)
    return PodMemory.of_this_process(mount=mount, groups=mount / "self")


def test_a_container_under_version_2_sees_its_own_group_as_the_top(tmp_path):
    group(tmp_path, "/", memory__max=2**28, memory__current=5, memory__events="oom 1\noom_kill 3")
    memory = memory_of(tmp_path, "0::/\n")
    assert (memory.limit_bytes(), memory.used_bytes(), memory.kills()) == (2**28, 5, 3)


def test_the_smallest_limit_on_the_way_to_the_top_holds(tmp_path):
    group(tmp_path, "/pod", memory__max=2**27)
    group(tmp_path, "/pod/worker", memory__max="max", memory__current=7, memory__events="")
    memory = memory_of(tmp_path, "0::/pod/worker\n")
    assert (memory.limit_bytes(), memory.used_bytes(), memory.kills()) == (2**27, 7, 0)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/host/only", id="a container is told the host's path"),
        pytest.param("/", id="at the top"),
    ],
)
def test_version_1_has_a_folder_of_its_own_for_memory(tmp_path, path):
    group(
        tmp_path,
        "/memory",
        memory__limit_in_bytes=2**26,
        memory__usage_in_bytes=9,
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2",
    )
    memory = memory_of(tmp_path, f"5:cpu,cpuacct:/x\n4:memory:{path}\n0::/\n")
    assert (memory.limit_bytes(), memory.used_bytes(), memory.kills()) == (2**26, 9, 2)


@pytest.mark.parametrize("limit", ["max", 2**63 - 4096])
def test_without_a_limit_the_machine_is_it(tmp_path, limit):
    group(tmp_path, "/memory", memory__limit_in_bytes=limit)
    assert memory_of(tmp_path, "4:memory:/\n").limit_bytes() == MACHINE


def test_without_groups_the_machine_is_it(tmp_path):
    memory = memory_of(tmp_path, "")
    assert (memory.limit_bytes(), memory.used_bytes(), memory.kills()) == (MACHINE, None, 0)


@pytest.fixture
def small_group():
    """A real group of 64 MiB, version 1; there are tests of files for the other."""
    folder = Path("/sys/fs/cgroup/memory") / f"concertina-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no memory groups of version 1 can be made here")
    (folder / "memory.limit_in_bytes").write_text(str(64 * 2**20))
    yield folder
    folder.rmdir()


def test_a_process_that_the_kernel_kills_for_its_memory_is_counted(small_group):
    memory = PodMemory(
        folder=small_group,
        top=small_group.parent,
        limit_file="memory.limit_in_bytes",
        usage_file="memory.usage_in_bytes",
        events_file="memory.oom_control",
        cache_key="total_cache",
        shared_key="total_shmem",
    )
    assert (memory.limit_bytes(), memory.kills()) == (64 * 2**20, 0)
    code = (
        "import os, sys\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "print(len(bytearray(2**30)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(small_group / "cgroup.procs")],
        check=False,
        capture_output=True,
    )
    assert ended.returncode == -9, ended.stderr
    assert memory.kills() == 1


def machine(root, *, cgroup):
    files = {
        "proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n",
        "proc/self/cgroup": cgroup,
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def limited(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(str(text))


def version_2(limit, used, cache=0, shared=0):
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon {used}\nfile {cache}\nshmem {shared}\n",
    }


def version_1(limit, used, cache=0, shared=0):
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": f"cache 1\nshmem 1\ntotal_cache {cache}\ntotal_shmem {shared}\n",
    }


def test_without_a_limit_the_machine_counts(tmp_path):
    machine(tmp_path, cgroup="0::/\n")
    limited(tmp_path / "sys/fs/cgroup", version_2("max", GIB))

    assert host_memory(tmp_path) == HostMemory(limit=16 * GIB, used=8 * GIB)


def test_a_container_sees_its_group_at_the_root_and_file_cache_counts_as_free(tmp_path):
    machine(tmp_path, cgroup="0::/\n")
    limited(tmp_path / "sys/fs/cgroup", version_2(4 * GIB, 3 * GIB, cache=GIB))

    assert host_memory(tmp_path) == HostMemory(limit=4 * GIB, used=2 * GIB)


@pytest.mark.parametrize(
    ("folder", "files", "cgroup"),
    [
        pytest.param("", version_2, "0::/\n", id="version 2"),
        pytest.param("memory", version_1, "4:memory:/\n", id="version 1"),
    ],
)
def test_shared_memory_is_no_cache_that_is_given_back(tmp_path, folder, files, cgroup):
    machine(tmp_path, cgroup=cgroup)
    told = files(4 * GIB, 3 * GIB, cache=2 * GIB, shared=GIB)
    limited(tmp_path / "sys/fs/cgroup" / folder, told)

    assert host_memory(tmp_path) == HostMemory(limit=4 * GIB, used=2 * GIB)


def test_the_tightest_of_the_groups_above_counts(tmp_path):
    machine(tmp_path, cgroup="0::/slice/job\n")
    limited(tmp_path / "sys/fs/cgroup/slice", version_2(5 * GIB, 4 * GIB))
    limited(tmp_path / "sys/fs/cgroup/slice/job", version_2(3 * GIB, GIB))

    assert host_memory(tmp_path) == HostMemory(limit=5 * GIB, used=4 * GIB)


def test_version_1_is_read_too(tmp_path):
    machine(tmp_path, cgroup="4:memory:/job\n0::/\n")
    limited(tmp_path / "sys/fs/cgroup/memory", version_1(2**63 - 4096, 9 * GIB))
    limited(tmp_path / "sys/fs/cgroup/memory/job", version_1(4 * GIB, 3 * GIB, cache=2 * GIB))

    assert host_memory(tmp_path) == HostMemory(limit=4 * GIB, used=GIB)


def test_a_group_that_cannot_be_read_is_no_limit(tmp_path):
    machine(tmp_path, cgroup="rubbish\n0::/job\n")
    limited(tmp_path / "sys/fs/cgroup/job", version_2("rubbish", GIB))

    assert host_memory(tmp_path).limit == 16 * GIB
