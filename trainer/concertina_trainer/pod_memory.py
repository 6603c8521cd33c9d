"""The memory that a pod may use and has used up: limit, use and kills of its control group.

Read by the agent when a worker was killed, by a worker that ran out of memory, and by snapshots
before they take much. Both versions of cgroups; without a limit the machine's memory is it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_MOUNT: Final = Path("/sys/fs/cgroup")
_UNLIMITED: Final = 2**60
"""Version 1 writes a number near 2^63 where there is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """Bytes of memory that the processes of a pod share."""

    limit: int
    used: int
    """Without caches of files on disk: the kernel gives those back."""


def host_memory(root: Path = Path("/")) -> HostMemory:
    """The tightest of the machine and of the groups that this process is in."""
    groups = PodMemory.of_this_process(
        mount=root / _MOUNT.relative_to("/"), groups=root / "proc/self/cgroup"
    )
    found = [_machine(root / "proc/meminfo"), *groups.limited()]
    return min(found, key=lambda memory: memory.limit - memory.used)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodMemory:
    """The control group of this process, as far as it can be seen from inside."""

    folder: Path
    top: Path
    """The highest group that is visible; limits of those in between count, too."""
    limit_file: str
    usage_file: str
    events_file: str
    cache_key: str
    """What `memory.stat` calls the file caches."""
    shared_key: str
    """What it calls shared memory, which is one of them, but is not given back."""

    @classmethod
    def of_this_process(
        cls, *, mount: Path = _MOUNT, groups: Path = Path("/proc/self/cgroup")
    ) -> Self:
        """Where the kernel says that it is; a container sees its own group as the top."""
        paths = _paths(groups)
        if "memory" in paths:
            top = mount / "memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control")
            cache_key, shared_key = "total_cache", "total_shmem"
        else:
            top = mount
            files = ("memory.max", "memory.current", "memory.events")
            cache_key, shared_key = "file", "shmem"
        folder = top / paths.get("memory", paths.get("", "/")).lstrip("/")
        limit, usage, events = files
        return cls(
            # With version 1 a container is told its path on the host, which it cannot see.
            folder=folder if folder.is_dir() else top,
            top=top,
            limit_file=limit,
            usage_file=usage,
            events_file=events,
            cache_key=cache_key,
            shared_key=shared_key,
        )

    def limit_bytes(self) -> int:
        """The smallest limit that holds for this process."""
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return min([machine, *(limit for _, limit in self._limits())])

    def limited(self) -> Iterator[HostMemory]:
        """The groups that have a limit, from this process's own up to the highest."""
        for folder, limit in self._limits():
            used = _number(folder / self.usage_file)
            if used is not None:
                stat = _values(folder / "memory.stat")
                cache = stat.get(self.cache_key, 0) - stat.get(self.shared_key, 0)
                yield HostMemory(limit=limit, used=max(0, used - max(0, cache)))

    def used_bytes(self) -> int | None:
        """What the pod uses now, file caches included; None where that is not told."""
        return _number(self.folder / self.usage_file)

    def kills(self) -> int:
        """Processes of the group that were killed for lack of memory, since it was made."""
        return _values(self.folder / self.events_file).get("oom_kill", 0)

    def _limits(self) -> Iterator[tuple[Path, int]]:
        inside = (parent for parent in self.folder.parents if parent.is_relative_to(self.top))
        for folder in (self.folder, *inside):
            limit = _number(folder / self.limit_file)
            if limit and limit < _UNLIMITED:
                yield folder, limit


def _paths(groups: Path) -> dict[str, str]:
    """Path of the process's group by controller; that of version 2 has no name."""
    found = {}
    for line in _text(groups).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _machine(meminfo: Path) -> HostMemory:
    kibibytes = _values(meminfo)
    total = kibibytes["MemTotal:"]
    free = kibibytes.get("MemAvailable:", kibibytes["MemFree:"])
    return HostMemory(limit=total * 1024, used=(total - free) * 1024)


def _values(file: Path) -> dict[str, int]:
    """Names and numbers of a file with one of each in a line."""
    rows = (line.split() for line in _text(file).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdecimal() else None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # no cgroups, or none of memory
        return ""
