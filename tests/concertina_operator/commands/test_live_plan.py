"""What the operator would do about a job now."""

from typing import Any

import pytest

from concertina_operator.commands.live_plan import (
    plan_document,
    plan_of,
    suspension_warning,
    switched,
    told,
)
from tests.concertina_operator.commands.documents import (
    NOW,
    a_job_document,
    a_live_job,
    a_membership_document,
    a_pod_document,
    a_report_document,
    a_trained_spec,
)
from tests.concertina_operator.factories import a_membership, a_report


def test_a_new_job_gets_its_first_pod() -> None:
    observed, decided = plan_of(a_live_job(), now=NOW)
    lines = list(told(observed, decided))
    assert lines[0] == "now: 0 pod(s), 0 of them in round 0, batch 32, not seen by an operator yet"
    assert lines[1].startswith("because: ")
    assert "then: create pod tiny-lm-0" in lines
    document = plan_document(observed, decided)
    assert (document["namespace"], document["name"]) == ("ml", "tiny-lm")
    assert document["actions"] == [{"action": "CreatePod", "pod": "tiny-lm-0"}]
    assert document["hindrances"] == []


def test_a_warm_pod_leads_to_a_round() -> None:
    live = a_live_job(a_pod_document(0), reports=(a_report_document(a_report(0)),))
    observed, decided = plan_of(live, now=NOW)
    assert "then: publish round 1 (Run): tiny-lm-0" in list(told(observed, decided))
    (action,) = plan_document(observed, decided)["actions"]
    assert action["action"] == "PublishMembership"
    assert [member["pod"] for member in action["membership"]["members"]] == ["tiny-lm-0"]


def test_a_job_that_has_all_it_needs_gets_nothing() -> None:
    report = a_report(
        0,
        phase="Training",
        round=1,
        acknowledged={
            "round": 1,
            "worldSizeBefore": 0,
            "worldSize": 1,
            "step": 0,
            "pauseSeconds": 0.1,
        },
    )
    live = a_live_job(
        a_pod_document(0),
        job=a_job_document(status={"round": 1, "committedRound": 1, "pods": {"wanted": 1}}),
        membership=a_membership_document(a_membership(1, 0)),
        reports=(a_report_document(report),),
    )
    observed, decided = plan_of(live, now=NOW)
    assert "then: nothing" in list(told(observed, decided))
    assert plan_document(observed, decided)["actions"] == []


def test_a_grant_limits_the_plan() -> None:
    job = a_job_document(status={"batch": {"effective": 128}})
    _, free = plan_of(a_live_job(job=job), now=NOW)
    _, granted = plan_of(a_live_job(job=job), now=NOW, granted=2)
    assert (len(free.actions), len(granted.actions)) == (4, 2)


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        pytest.param(
            {"scaling": {"mode": "Off"}},
            "but: scaling.mode is Off: the operator changes nothing",
            id="mode",
        ),
        pytest.param(
            {"pods": {"template": {}}},
            "but: spec.pods.template.spec: Field required: the operator creates no pod",
            id="template",
        ),
        pytest.param(
            {"managed_by": "kueue.x-k8s.io/multikueue"},
            "but: managedBy is kueue.x-k8s.io/multikueue: this operator leaves the job alone",
            id="managed-by-another",
        ),
    ],
)
def test_what_hinders_the_operator_is_said(fields: dict[str, Any], want: str) -> None:
    live = a_live_job(job=a_job_document(a_trained_spec(**fields)))
    assert list(told(*plan_of(live, now=NOW)))[-1] == want


@pytest.mark.parametrize(
    ("spec", "condition", "want"),
    [
        pytest.param(
            {"suspend": True},
            None,
            "suspended: it saves a checkpoint and gives back its pods",
            id="suspended",
        ),
        pytest.param({"suspend": False}, None, "resumed", id="resumed"),
        pytest.param(
            {"suspend": True},
            "Completed",
            "suspended, which changes nothing: it is Completed",
            id="completed",
        ),
        pytest.param(
            {"suspend": False},
            "Failed",
            "resumed, which changes nothing: it is Failed",
            id="failed",
        ),
        pytest.param(
            {"suspend": True, "scaling": {"mode": "Recommend"}},
            None,
            "suspended, but scaling.mode is Recommend: the operator changes nothing",
            id="mode",
        ),
        pytest.param(
            {"suspend": True, "managedBy": "kueue.x-k8s.io/multikueue"},
            None,
            "suspended, but managedBy is kueue.x-k8s.io/multikueue:"
            " this operator leaves the job alone",
            id="managed-by-another",
        ),
    ],
)
def test_a_switch_promises_only_what_the_operator_will_do(
    spec: dict[str, Any], condition: str | None, want: str
) -> None:
    conditions = [{"type": condition, "status": "True", "reason": "r"}] if condition else []
    job = a_job_document(status={"conditions": conditions})
    job["spec"] |= spec
    assert switched(job) == want


@pytest.mark.parametrize(
    ("conditions", "want_warning", "want"),
    [
        pytest.param(
            {"CheckpointDurable": "False"},
            "the job begins anew when it is resumed: no volume is mounted",
            "suspended: it gives back its pods",
            id="nothing-keeps-them",
        ),
        pytest.param(
            {"CheckpointDurable": "True"},
            None,
            "suspended: it saves a checkpoint and gives back its pods",
            id="a-volume-keeps-them",
        ),
        pytest.param(
            {},
            None,
            "suspended: it saves a checkpoint and gives back its pods",
            id="no-operator-has-looked-yet",
        ),
        pytest.param(
            {"CheckpointDurable": "False", "Completed": "True"},
            None,
            "suspended, which changes nothing: it is Completed",
            id="nothing-happens",
        ),
    ],
)
def test_who_suspends_is_warned_of_a_job_that_will_begin_anew(
    conditions: dict[str, str], want_warning: str | None, want: str
) -> None:
    job = a_job_document(
        status={
            "conditions": [
                {"type": name, "status": status, "reason": "r", "message": "no volume is mounted"}
                for name, status in conditions.items()
            ]
        }
    )
    job["spec"]["suspend"] = True

    assert suspension_warning(job) == want_warning
    assert switched(job) == want
