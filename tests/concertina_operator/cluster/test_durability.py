"""Which checkpoints outlive their pods."""

from typing import Any

import pytest

from concertina_operator.cluster.durability import checkpoint_warning, shares_storage
from concertina_operator.cluster.pod import build_pod
from tests.concertina_operator.cluster.templates import JOB, a_container
from tests.concertina_operator.factories import a_spec

CLAIM = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}


def test_a_bucket_outlives_every_pod_and_all_see_it() -> None:
    spec = a_spec(checkpoint={"path": "s3://bucket/folder"})
    assert checkpoint_warning(spec) is None
    assert shares_storage(spec)


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


ALONE = "nothing is saved while several pods train"


@pytest.mark.parametrize(
    ("mount", "kind", "want_storage", "want_warning"),
    [
        pytest.param(None, {}, "Pod", "no volume is mounted", id="no-volume"),
        pytest.param({}, {"emptyDir": {}}, "Pod", "of kind emptyDir", id="empty-dir"),
        pytest.param({}, {}, "Pod", "of kind emptyDir", id="no-kind"),
        pytest.param({}, {"ephemeral": {}}, "Pod", "of kind ephemeral", id="ephemeral"),
        pytest.param(
            {"subPathExpr": "$(CONCERTINA_POD)"},
            {"persistentVolumeClaim": {"claimName": "data"}},
            "Pod",
            "mounted with subPathExpr $(CONCERTINA_POD)",
            id="a-folder-for-each-pod",
        ),
        pytest.param(
            {"subPath": "runs"},
            {"persistentVolumeClaim": {"claimName": "data"}},
            "Shared",
            None,
            id="a-claim",
        ),
        pytest.param({}, {"nfs": {"server": "s", "path": "/"}}, "Shared", None, id="nfs"),
        pytest.param({}, {"hostPath": {"path": "/mnt"}}, "Shared", None, id="host-path"),
        pytest.param(
            {"readOnly": True},
            {"persistentVolumeClaim": {"claimName": "data"}},
            "Shared",
            "mounted readOnly",
            id="mounted-read-only",
        ),
        pytest.param(
            {},
            {"persistentVolumeClaim": {"claimName": "data", "readOnly": True}},
            "Shared",
            "whose claim is readOnly",
            id="a-claim-that-is-only-read",
        ),
        pytest.param(
            {}, {"configMap": {"name": "data"}}, "Shared", "cannot be written", id="config-map"
        ),
    ],
)
def test_pods_are_told_whether_they_share_the_folder_of_checkpoints(
    mount: dict[str, Any] | None, kind: dict[str, Any], want_storage: str, want_warning: str | None
) -> None:
    mounts = [] if mount is None else [{"name": "data", "mountPath": "/data", **mount}]
    template = {
        "spec": {
            "containers": [a_container(volumeMounts=mounts)],
            "volumes": [{"name": "data", **kind}],
        }
    }
    spec = a_spec(pods={"template": template, "max": 2}, checkpoint={"path": "/data/runs"})

    pod = build_pod(JOB, spec, name="tiny-lm-0")

    variables = {entry["name"]: entry.get("value") for entry in pod["spec"]["containers"][0]["env"]}
    assert variables["CONCERTINA_STORAGE"] == want_storage
    warning = checkpoint_warning(spec)
    assert (warning is None) is (want_warning is None)
    assert (want_warning or "") in (warning or "")
    assert (ALONE in (warning or "")) is (want_storage == "Pod")
