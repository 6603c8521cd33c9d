"""What people read about jobs."""

from datetime import timedelta
from typing import Any

import pytest

from concertina_api.v1alpha1 import PodPhase
from concertina_operator.commands.rendering import age, description, job_summary, job_table
from tests.concertina_operator.commands.documents import (
    NOW,
    a_job_document,
    a_live_job,
    a_pod_document,
    a_report_document,
    a_trained_spec,
    stamp,
)
from tests.concertina_operator.factories import START, a_report

STATUS: dict[str, Any] = {
    "state": "Training",
    "pods": {"wanted": 2, "ready": 1},
    "batch": {"effective": 64, "reason": "noise scale 114 x 0.56 = 64"},
    "progress": {"step": 412, "samples": 9000, "loss": 1.93456, "noiseScale": 114.2},
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Training",
            "message": "round 3 trains",
            "lastTransitionTime": stamp(START),
        }
    ],
}


def test_a_table_has_a_row_per_job() -> None:
    jobs = [a_job_document(status=STATUS), a_job_document(name="just-created")]
    head, first, second = job_table(jobs, everywhere=False, now=NOW)
    assert head.split() == ["NAME", "STATE", "PODS", "BATCH", "STEP", "LOSS", "NOISE", "AGE"]
    assert first.split() == ["tiny-lm", "Training", "1/2", "64", "412", "1.935", "114.2", "5m"]
    assert second.split() == ["just-created", "-", "0/0", "-", "0", "-", "-", "5m"]
    # Columns are as wide as their widest cell.
    assert first.index("Training") == second.index("-  ") == head.index("STATE")


def an_unreadable_job(**fields: Any) -> dict[str, Any]:
    """A job as a definition of another version takes it."""
    document = a_job_document(**fields)
    document["spec"]["batch"]["rule"] = {"name": "FutureRule"}
    return document


def test_a_job_whose_spec_cannot_be_read_has_a_row_like_the_others() -> None:
    jobs = [an_unreadable_job(status=STATUS), a_job_document(name="another")]
    _, first, second = job_table(jobs, everywhere=False, now=NOW)
    assert first.split()[:4] == ["tiny-lm", "Training", "1/2", "64"]
    assert second.split()[0] == "another"


def test_a_job_whose_spec_cannot_be_read_is_described_as_far_as_it_can() -> None:
    live = a_live_job(a_pod_document(0), job=an_unreadable_job(status=STATUS))
    lines = list(description(live, events=(), now=NOW))
    assert lines[0].startswith("ml/tiny-lm cannot be read here:\nspec.batch.rule.name: ")
    rows = [line.split() for line in lines]
    assert ["Ready", "True", "Training", "5m", "round", "3", "trains"] in rows


def test_a_table_of_all_namespaces_names_them() -> None:
    head, row = job_table([a_job_document()], everywhere=True, now=NOW)
    assert (head.split()[0], row.split()[0]) == ("NAMESPACE", "ml")


def test_a_summary_is_the_status_with_the_name() -> None:
    assert job_summary(a_job_document(status=STATUS)) == {
        "namespace": "ml",
        "name": "tiny-lm",
        "created": stamp(START),
        "suspend": False,
        "status": STATUS,
    }


@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        pytest.param(-3, "0s", id="a-clock-that-is-behind"),
        pytest.param(119, "119s", id="seconds"),
        pytest.param(120, "2m", id="minutes"),
        pytest.param(7199, "119m", id="nearly-two-hours"),
        pytest.param(7200, "2h", id="hours"),
        pytest.param(200_000, "2d", id="days"),
    ],
)
def test_an_age_is_in_the_largest_unit_that_fits(seconds: int, want: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), now=NOW) == want


def test_nothing_has_no_age() -> None:
    assert age(None, now=NOW) == "-"


def test_a_description_tells_state_conditions_pods_and_events() -> None:
    report = a_report(0, phase=PodPhase.TRAINING, round=3)
    event = {
        "metadata": {"name": "e", "namespace": "ml", "creationTimestamp": stamp()},
        "eventTime": stamp(START),
        "series": {"count": 4, "lastObservedTime": stamp(NOW - timedelta(seconds=30))},
        "type": "Normal",
        "reason": "RoundPublished",
        "note": "round 3 of 1 pod",
    }
    live = a_live_job(
        a_pod_document(0),
        a_pod_document(1, phase="Pending", message="0/1 nodes are available"),
        job=a_job_document(status=STATUS),
        reports=(a_report_document(report),),
    )
    lines = list(description(live, events=[event], now=NOW))
    text = "\n".join(lines)
    assert lines[0] == "ml/tiny-lm: Training"
    assert "64 samples (from 32, at most 512) noise scale 114 x 0.56 = 64" in text
    assert "1 of 2 ready (1 to 4)" in text
    assert "step 412, 9000 of 100000 samples, loss 1.935" in text
    rows = [line.split() for line in lines]
    assert ["Ready", "True", "Training", "5m", "round", "3", "trains"] in rows
    assert ["tiny-lm-0", "Running", "Training", "3", "node-0", "5m"] in rows
    assert ["tiny-lm-1", "Pending", "-", "-", "node-1", "4m"] in rows
    assert "  tiny-lm-1: 0/1 nodes are available" in lines
    assert ["30s", "Normal", "RoundPublished", "round", "3", "of", "1", "pod", "(x4)"] in rows


def test_a_description_tells_what_protects_what_was_lost_and_what_failed() -> None:
    status = STATUS | {
        "snapshot": {"step": 40, "everySteps": 20, "cost": 0.008},
        "recoveries": {"count": 2, "stepsLost": 9, "source": "snapshot", "pauseSeconds": 2.4},
        "failures": {
            "count": 1,
            "infrastructure": 4,
            "message": "tiny-lm-1 failed",
            "traceback": "  File a, line 3\nKeyError: 1",
        },
    }
    lines = list(description(a_live_job(job=a_job_document(status=status)), events=(), now=NOW))
    assert "  snapshot  step 40, every 20 steps, 0.8 % of a step" in lines
    assert "  recovery  2, 9 steps lost; the newest from snapshot in 2.4 s" in lines
    assert "  failures  1 of 3, 4 of the infrastructure tiny-lm-1 failed" in lines
    place = lines.index("TRACEBACK of the newest failure")
    assert lines[place + 1 : place + 3] == ["  File a, line 3", "KeyError: 1"]


def test_a_description_says_why_there_is_no_snapshot() -> None:
    alone = {
        "type": "SnapshotsTaken",
        "status": "False",
        "reason": "SinglePod",
        "message": "one pod has no neighbour",
    }
    for status, want in ((STATUS, "none yet"), ({"conditions": [alone]}, alone["message"])):
        live = a_live_job(job=a_job_document(status=status))
        lines = list(description(live, events=(), now=NOW))
        assert any(line.startswith("  snapshot  ") and want in line for line in lines)


def test_events_are_told_in_the_order_of_their_last_times() -> None:
    events = [
        {
            "metadata": {"creationTimestamp": stamp()},
            "eventTime": stamp(START + timedelta(seconds=second)),
            "reason": f"At{second}",
        }
        for second in (30, 10, 20)
    ]
    lines = list(description(a_live_job(), events=events, now=NOW))
    assert [line.split()[1] for line in lines[-3:]] == ["At10", "At20", "At30"]


def test_a_report_of_an_earlier_pod_of_the_same_name_is_not_shown() -> None:
    report = a_report(0, uid="another", phase=PodPhase.TRAINING, round=3)
    live = a_live_job(a_pod_document(0), reports=(a_report_document(report),))
    rows = [line.split() for line in description(live, events=(), now=NOW)]
    assert ["tiny-lm-0", "Running", "-", "-", "node-0", "5m"] in rows


def test_an_ended_pod_shows_its_exit_code() -> None:
    ended = {"name": "trainer", "state": {"terminated": {"exitCode": 137}}}
    live = a_live_job(a_pod_document(0, phase="Failed", containerStatuses=[ended]))
    assert any("Failed (exit 137)" in line for line in description(live, events=(), now=NOW))


def test_pods_of_an_older_template_are_counted() -> None:
    newer = {"spec": {"containers": [{"name": "trainer", "image": "registry.example/trainer:2"}]}}
    spec = a_trained_spec(pods={"max": 4, "template": newer})
    live = a_live_job(
        a_pod_document(0), a_pod_document(1, spec=spec), job=a_job_document(spec, status=STATUS)
    )
    (told,) = (line for line in description(live, events=(), now=NOW) if "template" in line)
    assert told.split(None, 1)[1] == "older than the job's in 1 pod(s): tiny-lm-0"
