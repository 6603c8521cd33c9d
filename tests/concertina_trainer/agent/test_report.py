from datetime import UTC, datetime

import pytest

from concertina_api.v1alpha1 import (
    BatchSizeRequest,
    Failure,
    FailureCause,
    Membership,
    PodPhase,
    Progress,
    Resize,
    SavedCheckpoint,
    SnapshotFacts,
    TrainingReport,
)
from concertina_trainer.agent.mailbox import WorkerStatus
from concertina_trainer.agent.publisher import Publisher, ReportFile
from concertina_trainer.agent.report import MAX_BYTES, AgentFacts, compose, size_bytes

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def facts(**fields):
    known = {"pod": "tiny-0", "uid": "u", "incarnation": "a", "host": "h", "port": 5, "workers": 1}
    return AgentFacts(**{**known, **fields})


def status(local_rank=0, **fields):
    known = {"incarnation": "a", "local_rank": local_rank, "pid": 1}
    return WorkerStatus(**{**known, **fields})


def report(*statuses, now=NOW, **fields):
    return compose(statuses, facts(**fields), now=now)


@pytest.mark.parametrize(
    ("phases", "want"),
    [
        pytest.param([], PodPhase.STARTING, id="nobody told anything"),
        pytest.param([PodPhase.WARM], PodPhase.STARTING, id="one of two told something"),
        pytest.param([PodPhase.WARM, PodPhase.STARTING], PodPhase.STARTING, id="one is late"),
        pytest.param([PodPhase.WARM, PodPhase.WARM], PodPhase.WARM, id="all are warm"),
        pytest.param([PodPhase.TRAINING, PodPhase.WARM], PodPhase.WARM, id="entering"),
        pytest.param([PodPhase.TRAINING, PodPhase.WAITING], PodPhase.WAITING, id="broken"),
        pytest.param([PodPhase.LEFT, PodPhase.TRAINING], PodPhase.TRAINING, id="one still sends"),
        pytest.param([PodPhase.LEFT, PodPhase.LEFT], PodPhase.LEFT, id="all left"),
        pytest.param([PodPhase.FINISHED, PodPhase.FAILED], PodPhase.FAILED, id="one failed"),
    ],
)
def test_the_pod_is_as_far_as_its_last_worker(phases, want):
    statuses = [status(rank, phase=phase) for rank, phase in enumerate(phases)]

    assert report(*statuses, workers=2).phase is want


def test_a_pod_that_gave_up_has_failed_whatever_its_workers_said():
    assert report(status(phase=PodPhase.TRAINING), given_up=True).phase is PodPhase.FAILED


def test_what_workers_of_another_incarnation_said_is_not_told():
    old = status(incarnation="b", phase=PodPhase.TRAINING, round=7)

    assert report(old).round == 0
    assert report(old).phase is PodPhase.STARTING


@pytest.mark.parametrize(
    ("rank", "want_told"),
    [
        pytest.param(0, True, id="leader"),
        pytest.param(-1, True, id="left or suspended"),
        pytest.param(4, False, id="follower"),
    ],
)
def test_only_the_leader_speaks_for_the_job(rank, want_told):
    told = {
        "progress": Progress(step=3, samples=24),
        "request": BatchSizeRequest(sequence=1, requested=32, effective=32, reason="noise"),
        "acknowledged": Resize(
            round=2, world_size_before=1, world_size=2, step=3, pause_seconds=0.1
        ),
        "checkpoint": SavedCheckpoint(step=3, samples=24, path="checkpoints/3"),
        "snapshot": SnapshotFacts(step=2, every_steps=2),
    }

    made = report(status(rank=rank, round=2, **told), status(1, rank=5, round=2), workers=2)

    for name, value in told.items():
        assert getattr(made, name) == (value if want_told else None)


def test_the_leader_tells_whose_workers_the_others_wait_for():
    assert report(status(rank=0, slow=("tiny-2",))).slow == ("tiny-2",)
    assert report(status(rank=1, slow=("tiny-2",))).slow == ()


def test_facts_of_all_workers_are_put_together():
    made = report(
        status(round=4, suspects=("b-1", "tiny-0"), state_bytes=10, peak_bytes=7, finished=True),
        status(1, round=4, suspects=("a-1", "b-1"), state_bytes=20, finished=True),
        workers=2,
        leaving=True,
        membership=Membership(round=4, probe=9),
    )

    assert made.round == 4
    assert made.suspects == ("a-1", "b-1")  # never itself
    assert (made.state_bytes, made.peak_bytes) == (20, 7)
    assert made.finished
    assert made.leaving
    assert made.probe == 9
    assert (made.host, made.port, made.time) == ("h", 5, NOW)


def test_a_pod_is_in_the_round_of_its_last_worker_and_suspects_in_that_round():
    made = report(
        status(round=4, suspects=("old",)), status(1, round=5, suspects=("new",)), workers=2
    )

    assert made.round == 4
    assert made.suspects == ("old",)


def test_pods_that_do_not_answer_the_agent_are_suspects_too():
    made = report(status(suspects=("b-1",)), suspects=("a-1", "b-1", "tiny-0"))

    assert made.suspects == ("a-1", "b-1")


def test_a_report_fits_into_2_kib():
    longest = "x" * 512
    failure = Failure(
        round=1,
        incarnation="a",
        cause=FailureCause.EXCEPTION,
        message="head " + longest[:480] + "tail",
    )
    made = report(
        status(
            rank=0,
            suspects=tuple(f"{number:02}" + "p" * 61 for number in range(64)),
            request=BatchSizeRequest(sequence=1, requested=8, effective=8, reason=longest),
            acknowledged=Resize(
                round=1,
                world_size_before=1,
                world_size=2,
                step=1,
                pause_seconds=1,
                phases={f"{number:02}" + "f" * 30: 0.123456 for number in range(16)},
            ),
            progress=Progress(step=1, samples=8),
        ),
        failure=failure,
    )

    assert size_bytes(made) <= MAX_BYTES
    assert made.failure.message.endswith("tail")
    assert made.request.requested == 8
    assert made.suspects


def test_the_end_of_a_traceback_fills_the_room_that_is_left():
    failure = Failure(
        round=1,
        incarnation="a",
        cause="Exception",
        message="m" * 512,
        traceback="t" * 1020 + "tail",
    )
    made = report(status(rank=0), failure=failure)

    assert size_bytes(made) <= MAX_BYTES
    assert len(made.failure.traceback) >= 512
    assert made.failure.traceback.endswith("tail")
    assert made.failure.message == failure.message


class Sink:
    progress_seconds = 30.0

    def __init__(self):
        self.sent = []
        self.broken = False

    def send(self, report):
        if self.broken:
            raise OSError("no space left")
        self.sent.append(report)


def progress(step):
    return status(rank=0, phase=PodPhase.TRAINING, round=1, progress=Progress(step=step, samples=8))


def test_what_did_not_change_is_not_sent_again():
    sink = Sink()
    publisher = Publisher(sink)

    publisher.publish(report(progress(1)), now=0)
    publisher.publish(report(progress(1), now=datetime(2026, 1, 3, tzinfo=UTC)), now=100)

    assert len(sink.sent) == 1


def test_progress_alone_waits_and_everything_else_is_sent_at_once():
    sink = Sink()
    publisher = Publisher(sink)
    publisher.publish(report(progress(1)), now=0)

    publisher.publish(report(progress(2)), now=29)
    assert len(sink.sent) == 1
    publisher.publish(report(progress(3)), now=30)
    assert sink.sent[-1].progress.step == 3
    publisher.publish(report(progress(4), leaving=True), now=30.1)
    assert sink.sent[-1].leaving
    assert sink.sent[-1].progress.step == 4


def test_that_no_step_follows_is_told_at_once():
    sink = Sink()
    publisher = Publisher(sink)
    publisher.publish(report(progress(1)), now=0)
    last = progress(2)
    trained = last.progress.model_copy(update={"trained": True})
    publisher.publish(report(last.model_copy(update={"progress": trained})), now=0.1)
    assert sink.sent[-1].progress.trained
    assert sink.sent[-1].progress.step == 2


def test_a_newer_snapshot_is_progress_and_that_there_is_none_any_more_is_news():
    sink = Sink()
    publisher = Publisher(sink)

    def publish(*, now, **snapshot):
        leader = status(rank=0, snapshot=SnapshotFacts(**snapshot))
        publisher.publish(report(leader), now=now)
        return len(sink.sent)

    assert publish(step=4, now=0) == 1
    assert publish(step=8, now=1) == 1
    assert publish(step=8, off="no memory", now=2) == 2


def test_who_is_slow_is_told_with_the_progress():
    sink = Sink()
    publisher = Publisher(sink)
    publisher.publish(report(status(rank=0)), now=0)
    slow = report(status(rank=0, slow=("tiny-2",)))

    publisher.publish(slow, now=1)
    assert len(sink.sent) == 1
    publisher.publish(slow, now=30)
    assert sink.sent[-1].slow == ("tiny-2",)


def test_urgent_reports_are_one_per_second_after_a_burst_of_five():
    sink = Sink()
    publisher = Publisher(sink)

    for number in range(100):  # ten seconds of changes, ten a second
        publisher.publish(report(progress(1), port=1 + number), now=number / 10)

    assert len(sink.sent) == 5 + 9
    publisher.publish(report(progress(1), port=100), now=11)
    assert sink.sent[-1].port == 100  # what was held back is not forgotten


def test_a_report_that_could_not_be_sent_is_tried_again(caplog):
    sink = Sink()
    publisher = Publisher(sink)
    sink.broken = True
    publisher.publish(report(progress(1)), now=0)
    sink.broken = False

    publisher.publish(report(progress(1)), now=1)

    assert len(sink.sent) == 1
    assert "the report was not sent, trying again: no space left" in caplog.text


def test_the_file_holds_the_report_as_an_object(tmp_path):
    path = tmp_path / "tiny-0.json"
    made = report(progress(1))

    ReportFile(path).send(made)

    assert TrainingReport.model_validate_json(path.read_text()).spec == made
    assert [file.name for file in tmp_path.iterdir()] == ["tiny-0.json"]
