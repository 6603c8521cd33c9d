"""The memory that a pod may use and has used up: limit, use and kills of its control group.

Read by the agent when a worker was killed, by a worker that ran out of memory, and by whoever wants
to know before it takes much. Both versions of cgroups; without a limit the machine's memory is it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_MOUNT: Final = Path("/sys/fs/cgroup")
_UNLIMITED: Final = 2**60
"""Version 1 writes a number near 2^63 where there is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodMemory:
    """The control group of this process, as far as it can be seen from inside."""

    folder: Path
    top: Path
    """The highest group that is visible; limits of those in between count, too."""
    limit_file: str
    usage_file: str
    events_file: str

    @classmethod
    def of_this_process(
        cls, *, mount: Path = _MOUNT, groups: Path = Path("/proc/self/cgroup")
    ) -> Self:
        """Where the kernel says that it is; a container sees its own group as the top."""
        paths = _paths(groups)
        if "memory" in paths:
            top = mount / "memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control")
        else:
            top = mount
            files = ("memory.max", "memory.current", "memory.events")
        folder = top / paths.get("memory", paths.get("", "/")).lstrip("/")
        limit, usage, events = files
        return cls(
            # With version 1 a container is told its path on the host, which it cannot see.
            folder=folder if folder.is_dir() else top,
            top=top,
            limit_file=limit,
            usage_file=usage,
            events_file=events,
        )

    def limit_bytes(self) -> int:
        """The smallest limit that holds for this process."""
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        inside = [parent for parent in self.folder.parents if parent.is_relative_to(self.top)]
        limits = [_number(folder / self.limit_file) for folder in (self.folder, *inside)]
        return min([machine, *(limit for limit in limits if limit and limit < _UNLIMITED)])

    def used_bytes(self) -> int | None:
        """What the pod uses now, file caches included; None where that is not told."""
        return _number(self.folder / self.usage_file)

    def kills(self) -> int:
        """Processes of the group that were killed for lack of memory, since it was made."""
        for line in _text(self.folder / self.events_file).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.strip().isdecimal():
                return int(count)
        return 0


def _paths(groups: Path) -> dict[str, str]:
    """Path of the process's group by controller; that of version 2 has no name."""
    found = {}
    for line in _text(groups).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdecimal() else None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # no cgroups, or none of memory
        return ""
