"""Runs commands in an unpacked image as a restricted pod would: read-only, as its own user.

The kubelet's part of it (seccomp, capabilities, probes) is for the tests on the cluster; here it is
what the image itself lacks or has.
"""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.images.base import NAMESPACES

_ENTER = """
set -e
root=$1 user=$2; shift 2
mount --bind "$root" "$root"
while [ "$1" != -- ]; do mount --bind "$1" "$root/$2"; shift 2; done
shift
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot --userspec="$user" "$root" /usr/bin/env --ignore-environment "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """An unpacked image and how its processes run."""

    root: Path
    user: str
    environment: tuple[str, ...]
    """NAME=value, as an image's configuration has it."""
    mounts: Mapping[str, str] = field(default_factory=dict)
    """Folders of the host, by their paths in it."""

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        mounts = [word for inside, outside in self.mounts.items() for word in (outside, inside)]
        entered = [*NAMESPACES, "sh", "-c", _ENTER, "sh", str(self.root), self.user, *mounts, "--"]
        return subprocess.run(
            [*entered, *self.environment, *command], capture_output=True, text=True, check=False
        )
