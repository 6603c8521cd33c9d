import json

import pytest

from concertina_api.v1alpha1 import Membership, PodPhase, TrainingMembership, TrainingReport
from concertina_trainer.agent.leave import Leave
from concertina_trainer.agent.mailbox import (
    WorkerStatus,
    membership_inbox,
    notice_inbox,
    put,
    worker_file,
)
from concertina_trainer.agent.membership import MembershipFile
from concertina_trainer.agent.metrics import Tally
from concertina_trainer.agent.pod import Pod
from concertina_trainer.agent.publisher import Publisher, ReportFile
from concertina_trainer.agent.reach import Reach
from concertina_trainer.agent.settings import settings_from
from concertina_trainer.agent.stores import RoundStores
from tests.concertina_trainer.agent.pods import job_manifest, wait_for


@pytest.fixture
def settings(tmp_path):
    manifest = tmp_path / "job.yaml"
    manifest.write_text(json.dumps(job_manifest()))
    return settings_from(
        {
            "CONCERTINA_JOB": str(manifest),
            "CONCERTINA_POD": "tiny-0",
            "CONCERTINA_UID": "u0",
            "CONCERTINA_MEMBERSHIP": str(tmp_path / "membership.json"),
            "CONCERTINA_REPORT": str(tmp_path / "reports" / "tiny-0.json"),
            "CONCERTINA_RUN_DIR": str(tmp_path),
        }
    )


class Store:
    port = 4000


def a_pod(settings, tally=None, reach=None, leave=None):
    """A pod whose workers are what the test writes into its mailbox."""
    return Pod(
        settings,
        source=MembershipFile(settings.channel.membership),
        stores=RoundStores(Store),
        publisher=Publisher(ReportFile(settings.channel.report)),
        tally=tally or Tally(),
        leave=leave or Leave(10),
        reach=reach,
    )


def a_report(settings):
    return TrainingReport.model_validate_json(settings.channel.report.read_bytes()).spec


def test_a_membership_that_cannot_be_relayed_is_relayed_later(settings, caplog):
    pod = a_pod(settings)
    pod.begin()
    put(settings.channel.membership, TrainingMembership.model_validate({"spec": {"round": 4}}))
    obstacle = settings.mailbox / "membership.json"
    obstacle.mkdir()

    pod.turn(now=0)
    pod.turn(now=1)
    obstacle.rmdir()
    pod.turn(now=2)

    assert caplog.text.count("cannot write to the workers, trying again") == 1
    assert membership_inbox(settings.mailbox).read().round == 4


def test_workers_hear_that_a_deletion_grants_less_time_than_usual(settings):
    leave = Leave(120)
    pod, notices = a_pod(settings, leave=leave), notice_inbox(settings.mailbox)
    pod.begin()
    leave.order(now=1000)
    pod.turn(now=1000)
    assert notices.read().deadline == 1118
    me = {"pod": "tiny-0", "uid": "u0", "incarnation": "a", "host": "h", "port": 1}
    other = me | {"pod": "tiny-1", "uid": "u1", "graceSeconds": 5}
    leaving = [me | {"graceSeconds": 20}, other]
    document = {"spec": {"round": 4, "leaving": leaving}}
    put(settings.channel.membership, TrainingMembership.model_validate(document))
    pod.turn(now=1001)
    assert notices.read().deadline == 1018


def test_workers_that_are_not_warm_are_ended_at_once_and_have_not_failed(settings):
    leave = Leave(120)
    pod = a_pod(settings, leave=leave)
    pod.begin()
    pod.turn(now=0)
    assert not pod.must_end(now=0)

    leave.order(now=0)

    assert pod.must_end(now=0)
    pod.close(now=0)
    assert (a_report(settings).leaving, a_report(settings).phase) == (True, PodPhase.STARTING)


def test_a_member_that_does_not_answer_is_reported_while_the_workers_train(settings):
    tally, reach = Tally(), Reach(answers=lambda _: False, call_seconds=0.01)
    pod = a_pod(settings, tally, reach)
    pod.begin()
    members = [
        {"pod": f"tiny-{n}", "uid": f"u{n}", "incarnation": "a", "host": "h", "port": 1}
        for n in (0, 1)
    ]
    membership = Membership.model_validate({"round": 1, "members": members})
    put(settings.channel.membership, TrainingMembership(spec=membership))
    pod.turn(now=0)
    assert not tally.is_ready
    status = WorkerStatus(
        incarnation=pod.incarnation, local_rank=0, pid=1, phase=PodPhase.TRAINING, round=1, rank=0
    )
    put(worker_file(settings.mailbox, 0), status)

    pod.turn(now=1)
    wait_for(lambda: reach.suspects, lambda: "a suspect")
    pod.turn(now=2)

    assert a_report(settings).suspects == ("tiny-1",)
    assert tally.is_ready
    pod.close(now=3)
