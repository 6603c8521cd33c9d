"""The Debian packages that a node of the test cluster needs, and their installation as root."""

import os
import shutil
import subprocess
from collections.abc import Iterable

PACKAGES = (
    "conntrack",
    "containernetworking-plugins",
    "gcc",
    "iproute2",
    "iptables",
    "libc6-dev",
    "libseccomp-dev",
    "nftables",
    "openssl",
    "pkg-config",
    "util-linux",
)
IMAGE_PACKAGES = ("debian-archive-keyring", "debootstrap")
"""What the base of the images is made with (tests/images)."""
CHAOS_PACKAGES = ("libfaketime",)
"""The clock that tests set (tests/chaos)."""


class PackagesMissing(Exception):
    """Packages are not there and cannot be installed; the message names them."""


def missing_packages(names: Iterable[str] = PACKAGES) -> tuple[str, ...]:
    """Those of the packages that are not installed; all of them where there is no dpkg."""
    if shutil.which("dpkg-query") is None:
        return tuple(names)
    return tuple(name for name in names if not _is_installed(name))


def ensure_packages() -> None:
    """Install what is missing with apt-get.

    Raises:
        PackagesMissing: not root, no apt-get, or apt-get failed.
    """
    absent = missing_packages((*PACKAGES, *IMAGE_PACKAGES, *CHAOS_PACKAGES))
    if not absent:
        return
    names = " ".join(absent)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise PackagesMissing(f"install these packages first (as root): {names}")
    print(f"installing {names}", flush=True)
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *absent]
    for command in (["apt-get", "update"], install):
        done = subprocess.run(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            words = (done.stderr or done.stdout)[-2000:]
            raise PackagesMissing(f"`{' '.join(command)}` ended with {done.returncode}:\n{words}")


def _is_installed(name: str) -> bool:
    asked = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", name]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout == "installed"
