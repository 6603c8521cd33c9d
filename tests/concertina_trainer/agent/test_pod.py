import json

import pytest

from concertina_api.v1alpha1 import TrainingMembership
from concertina_trainer.agent.leave import Leave
from concertina_trainer.agent.mailbox import membership_inbox, put
from concertina_trainer.agent.membership import MembershipFile
from concertina_trainer.agent.metrics import Tally
from concertina_trainer.agent.pod import Pod
from concertina_trainer.agent.report import Publisher, ReportFile
from concertina_trainer.agent.settings import settings_from
from concertina_trainer.agent.stores import RoundStores
from tests.concertina_trainer.agent.pods import job_manifest


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


def a_pod(settings):
    """A pod whose workers never get as far as a store."""
    return Pod(
        settings,
        source=MembershipFile(settings.channel.membership),
        stores=RoundStores(lambda: pytest.fail("no store is needed")),
        publisher=Publisher(ReportFile(settings.channel.report)),
        tally=Tally(),
        leave=Leave(10),
    )


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
