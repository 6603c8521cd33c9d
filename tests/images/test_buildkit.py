"""The daemon that builds the images."""

from pathlib import Path

import pytest

from tests.cluster.fixtures import required_or_skipped
from tests.cluster.isolation import CGROUPS
from tests.images.buildkit import CGROUP, buildkit
from tests.images.images import images_obstacle

pytestmark = pytest.mark.cluster


def test_a_daemon_that_ends_leaves_nothing_behind(tmp_path):
    if reason := images_obstacle():
        required_or_skipped(reason)
    (tmp_path / "Dockerfile").write_text(
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS work\nRUN grep concertina-images /proc/self/cgroup"
    )
    with buildkit() as running:
        socket = Path(running.address.removeprefix("unix://"))
        assert socket.exists()
        running.build(
            tmp_path, target="work", output=f"type=tar,dest={tmp_path / 'none.tar'}", is_fresh=True
        )
    assert not socket.parent.exists()
    assert "concertina/buildkit" not in Path("/proc/self/mounts").read_text()
    assert [*CGROUPS.glob(CGROUP), *CGROUPS.glob(f"*/{CGROUP}")] == []
