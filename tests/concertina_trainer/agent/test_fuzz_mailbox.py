"""Files of a mailbox with anything in them: the last good content stands."""

import json
from pathlib import Path

import pytest

from concertina_api.v1alpha1 import Membership, Report, TrainingMembership
from concertina_trainer.agent.mailbox import Inbox, Measured, Notice, WorkerStatus, put
from concertina_trainer.agent.membership import MembershipFile
from concertina_trainer.agent.metrics import PodCollector, Tally
from tests.fuzzing import DEEP, LENGTHS, STRANGE, bounded, fuzz, json_bytes

FIXTURES = Path(__file__).parents[2] / "fixtures" / "protocol-1"
MEMBERSHIPS = [json.loads(p.read_text())["spec"] for p in sorted(FIXTURES.glob("membership-*"))]
REPORTS = [
    Report.model_validate_json(json.dumps(json.loads(path.read_text())["spec"]))
    for path in sorted(FIXTURES.glob("report-*"))
]
STATUSES = [
    WorkerStatus(
        incarnation=report.incarnation,
        local_rank=0,
        pid=1,
        rank=0,
        round=report.round,
        phase=report.phase,
        failure=report.failure,
        request=report.request,
        progress=report.progress,
        acknowledged=report.acknowledged,
        checkpoint=report.checkpoint,
        measured=Measured(
            learning_rate=1e-3, accumulation_micro_batches=2, noise_estimate_age_samples=0
        ),
        samples_trained=8,
        tokens_per_sample=2,
        device="GPU-0",
    ).model_dump(mode="json", by_alias=True)
    for report in REPORTS
]
NOTICES = [{"deadline": 12.5}]
KINDS = {Membership: MEMBERSHIPS, WorkerStatus: STATUSES, Notice: NOTICES}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "file.json"


@LENGTHS
@pytest.mark.parametrize("kind", KINDS)
def test_content_is_understood_or_the_last_good_one_stands(file, kind, examples):
    good = kind.model_validate(KINDS[kind][0])

    def check(content):
        put(file, good)
        inbox = Inbox(file, kind)
        assert inbox.read() == good
        file.write_bytes(content)
        found = inbox.read()
        assert isinstance(found, kind)
        put(file, found)
        assert Inbox(file, kind).read() == found
        assert [path.name for path in file.parent.iterdir()] == [file.name]

    fuzz(check, json_bytes(KINDS[kind]), examples=examples)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [*DEEP, *STRANGE], ids=lambda content: repr(content[:12]))
def test_content_of_something_else_is_none(file, kind, content):
    file.write_bytes(content)
    assert bounded(lambda inbox: inbox.read(), Inbox(file, kind)) is None


@LENGTHS
def test_a_membership_of_a_lower_round_is_not_believed(file, examples):
    def check(content):
        good = TrainingMembership(spec=Membership(round=7))
        put(file, good)
        source = MembershipFile(file)
        assert source.latest() == good.spec
        file.write_bytes(content)
        assert source.latest().round >= 7

    documents = [{"spec": spec} for spec in MEMBERSHIPS]
    fuzz(check, json_bytes(documents), examples=examples)


@LENGTHS
def test_whatever_a_worker_tells_can_be_scraped_and_counters_never_fall(file, examples):
    from prometheus_client import CollectorRegistry, generate_latest

    tally = Tally()
    registry = CollectorRegistry()
    registry.register(PodCollector(tally, namespace="lab", job="tiny", pod="tiny-0"))
    counters = {}

    def check(content):
        file.write_bytes(content)
        status = Inbox(file, WorkerStatus).read()
        tally.update([status] if status else [], restarts=0)
        told = generate_latest(registry)
        assert len(told) < 100_000
        values = tally.reading.values
        for name, before in counters.items():
            assert values[name] >= before
        counters.update({name: value for name, value in values.items() if name.endswith("_total")})

    fuzz(check, json_bytes(STATUSES), examples=examples)
