"""Which checkpoints outlive their pods."""

from typing import Any

import pytest

from concertina_operator.cluster.durability import checkpoint_warning
from tests.concertina_operator.cluster.templates import a_container
from tests.concertina_operator.factories import a_spec

CLAIM = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}


@pytest.mark.parametrize(
    ("path", "mounts", "volumes", "want"),
    [
        pytest.param("/data/run", [("data", "/data")], [CLAIM], None, id="on-a-claim"),
        pytest.param("/data", [("data", "/data/")], [CLAIM], None, id="the-claim-itself"),
        pytest.param(
            "runs",
            [("data", "/data")],
            [CLAIM],
            "at checkpoint.path /run/concertina/runs",
            id="relative",
        ),
        pytest.param(
            "runs", [("data", "/run/concertina")], [CLAIM], None, id="relative-to-a-claim"
        ),
        pytest.param(
            "/database", [("data", "/data")], [CLAIM], "no volume is mounted", id="beside-the-claim"
        ),
        pytest.param(
            "/data/fast/run",
            [("data", "/data"), ("fast", "/data/fast")],
            [CLAIM, {"name": "fast", "emptyDir": {}}],
            "volume fast of kind emptyDir",
            id="under-a-volume-of-the-pod",
        ),
        pytest.param(
            "/data", [("data", "/data")], [{"name": "data"}], "of kind emptyDir", id="no-kind"
        ),
        pytest.param(
            "/data",
            [("data", "/data")],
            [{"name": "data", "persistentVolumeClaim": {"claimName": "data", "readOnly": True}}],
            "whose claim is readOnly",
            id="on-a-claim-that-is-only-read",
        ),
    ],
)
def test_checkpoints_that_end_with_the_pod_are_warned_of(
    path: str, mounts: list[tuple[str, str]], volumes: list[dict[str, Any]], want: str | None
) -> None:
    container = a_container(
        volumeMounts=[{"name": name, "mountPath": mounted} for name, mounted in mounts]
    )
    template = {"spec": {"containers": [container], "volumes": volumes}}
    got = checkpoint_warning(a_spec(pods={"template": template}, checkpoint={"path": path}))
    assert got == want if want is None else want in (got or "")


def test_checkpoints_on_a_volume_that_is_only_read_are_warned_of() -> None:
    mount = {"name": "data", "mountPath": "/data", "readOnly": True}
    template = {"spec": {"containers": [a_container(volumeMounts=[mount])], "volumes": [CLAIM]}}
    spec = a_spec(pods={"template": template}, checkpoint={"path": "/data"})
    assert "mounted readOnly" in (checkpoint_warning(spec) or "")
