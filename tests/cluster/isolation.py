"""What a node needs on its machine outside of its namespaces: a link, cgroups, mount points.

`prepare` is called before the node's supervisor starts, `connect` once its network namespace is
there, and `clear` when its processes are gone, also after a start that was cut.
"""

import subprocess
from pathlib import Path

from tests.cluster.api import wait_for
from tests.cluster.components import HOST_FOLDERS, TUNABLES
from tests.cluster.layout import CGROUP, GATEWAY, LINK, NODE_ADDRESS, POD_NETWORK, SERVICE_NETWORK

CGROUPS = Path("/sys/fs/cgroup")
SWITCH = CGROUPS / "cgroup.subtree_control"
"""With cgroup v2 alone: which controllers groups below the root have."""
DELEGATED = "delegated-on-host"
"""The file that names the controllers that they had not before."""
MADE = "made-on-host"
"""The file that names the mount points that were not there before."""


def prepare(state: Path) -> None:
    """Make the mount points and what will cover them, and the cgroup that holds all pods."""
    made = [name for name in HOST_FOLDERS if not Path(name).exists()]
    (state / MADE).write_text("\n".join(made))
    for name in HOST_FOLDERS:
        Path(name).mkdir(parents=True, exist_ok=True)
        (state / "host" / name.strip("/")).mkdir(parents=True)
    for name, value in TUNABLES.items():
        tunable = state / "tunables" / name
        tunable.parent.mkdir(parents=True, exist_ok=True)
        tunable.write_text(f"{value}\n")
    _delegate(state)
    for root in _cgroup_roots():
        (root / CGROUP).mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            # A new cpuset of cgroup v1 is empty, and nothing can run in it.
            if (root / name).exists() and not (root / "cgroup.controllers").exists():
                (root / CGROUP / name).write_text((root / name).read_text())


def connect(pid: int) -> None:
    """Lay a link into the network namespace of this process, and the routes to its pods."""
    _remove_link()  # of a node whose folder is not there any more
    peer = ("peer", "name", "eth0", "netns", str(pid))
    _ip("link", "add", LINK, "type", "veth", *peer)
    _ip("address", "add", f"{GATEWAY}/30", "dev", LINK)
    _ip("link", "set", LINK, "up")
    for network in (SERVICE_NETWORK, POD_NETWORK):
        _ip("route", "replace", network, "via", NODE_ADDRESS, "dev", LINK)


def clear(state: Path) -> None:
    """Remove all of it; what is not there is no error.

    Raises:
        AssertionError: a process is still in the cgroup.
    """
    if not (state / MADE).exists():
        return  # not a node's folder
    _remove_link()
    remove_cgroup(CGROUP)
    _undelegate(state)
    for name in (state / MADE).read_text().split():
        path = Path(name)
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def remove_cgroup(name: str) -> None:
    """Remove a cgroup of this name, with all below it, from each hierarchy.

    Raises:
        AssertionError: a process is still in it.
    """
    for root in _cgroup_roots():
        wait_for(lambda at=root / name: _removed(at), lambda at=root: f"{at}/{name} is in use")


def traces() -> list[str]:
    """What of a node is left on this machine; empty after `clear`."""
    left = [str(root / CGROUP) for root in _cgroup_roots() if (root / CGROUP).exists()]
    if Path(f"/sys/class/net/{LINK}").exists():
        left.append(LINK)
    return left


def _remove_link() -> None:
    link = Path(f"/sys/class/net/{LINK}")
    if link.exists():
        subprocess.run(["ip", "link", "delete", LINK], check=False, capture_output=True)
        wait_for(lambda: not link.exists(), lambda: f"{LINK} stays")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _cgroup_roots() -> list[Path]:
    """The root of each hierarchy that a kubelet uses: one of v2, or one for each controller."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    # The empty v2 hierarchy that systemd mounts beside those of v1 gets its share too.
    return [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]


def _delegate(state: Path) -> None:
    """Let groups below the root of cgroup v2 have all of its controllers, as a kubelet asks."""
    if SWITCH.exists():
        there = set((CGROUPS / "cgroup.controllers").read_text().split())
        missing = sorted(there - set(SWITCH.read_text().split()))
        (state / DELEGATED).write_text("\n".join(missing))
        for controller in missing:
            SWITCH.write_text(f"+{controller}")


def _undelegate(state: Path) -> None:
    if (state / DELEGATED).exists():
        for controller in (state / DELEGATED).read_text().split():
            SWITCH.write_text(f"-{controller}")


def _removed(cgroup: Path) -> bool:
    """Remove a cgroup with all below it, as far as it is empty; whether it is gone."""
    below = sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True)
    for path in (*below, cgroup):
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
