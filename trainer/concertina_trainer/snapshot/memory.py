"""Whether snapshots fit into the pod's memory: its limit, what is used, what they take.

Called by snapshots.py when a round begins. Reads the control group of this process, version 2 or
1, else the machine's memory. File cache counts as free: the kernel gives it back.
"""

from dataclasses import dataclass
from pathlib import Path

NUM_SETS = 2
"""The newest complete one, and one being filled."""
NUM_SHARDS = 2
"""In each: the worker's own, and its neighbour's."""
ROOT = Path("/")
_GIB = 2**30
_UNLIMITED = 2**60


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """Bytes of memory that the processes of a pod share."""

    limit: int
    used: int


def shortage(memory: HostMemory, *, shard_bytes: int, workers: int, taken: int) -> str:
    """Why snapshots do not fit, with the sizes; empty when they do.

    `shard_bytes`: of the largest shard; `workers`: of the pod, all of which keep snapshots;
    `taken`: what they hold already for them, a part of what is used.
    """
    needed = NUM_SETS * NUM_SHARDS * shard_bytes * workers
    free = memory.limit - memory.used + taken
    if needed <= free:
        return ""
    return (
        f"snapshots need {needed / _GIB:.2f} GiB of the pod's memory ({NUM_SETS} sets of"
        f" {NUM_SHARDS} shards of {shard_bytes / _GIB:.2f} GiB for {workers} workers), but"
        f" {max(0, free) / _GIB:.2f} GiB of {memory.limit / _GIB:.2f} GiB are free"
    )


def host_memory(root: Path = ROOT) -> HostMemory:
    """The memory of this process's control group, or of the machine when that has no limit."""
    machine = _machine(root)
    groups = [*_version_2(root), *_version_1(root)]
    return min([machine, *groups], key=lambda memory: memory.limit - memory.used)


def _machine(root: Path) -> HostMemory:
    lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    values = {name: int(rest.split()[0]) * 1024 for name, rest in (x.split(":") for x in lines)}
    total = values["MemTotal"]
    return HostMemory(limit=total, used=total - values.get("MemAvailable", values["MemFree"]))


def _version_2(root: Path) -> list[HostMemory]:
    base = root / "sys/fs/cgroup"
    return _limits(base, _own_path(root, controller=""), "memory.max", "memory.current", "file")


def _version_1(root: Path) -> list[HostMemory]:
    base = root / "sys/fs/cgroup/memory"
    path = _own_path(root, controller="memory")
    return _limits(base, path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")


def _own_path(root: Path, *, controller: str) -> str:
    """The path of this process's group in the hierarchy of a controller; "" in version 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path and controller in controllers.split(","):
            return path.strip("/")
    return ""


def _limits(base: Path, path: str, limit: str, used: str, cache: str) -> list[HostMemory]:
    """Of the group and of those it is in. In a container the group is the base itself."""
    found = []
    folder = base / path
    while True:
        memory = _limit(folder, limit, used, cache)
        if memory is not None:
            found.append(memory)
        if folder == base or base not in folder.parents:
            return found
        folder = folder.parent


def _limit(folder: Path, limit: str, used: str, cache: str) -> HostMemory | None:
    try:
        words = (folder / limit).read_text(encoding="ascii").strip()
        current = int((folder / used).read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    if not words.isdecimal() or int(words) >= _UNLIMITED:
        return None
    statistics = dict(line.split(" ", 1) for line in lines if " " in line)
    return HostMemory(limit=int(words), used=max(0, current - int(statistics.get(cache, 0))))
