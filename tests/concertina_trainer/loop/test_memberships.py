"""How long a worker waits for the next membership, and for the others of the one it enters."""

from pathlib import Path

import pytest

from concertina_api.v1alpha1 import Member, Membership, PodPhase
from concertina_trainer.agent.mailbox import Notice, WorkerStatus, put, worker_file
from concertina_trainer.loop.context import worker_context
from concertina_trainer.loop.inbox import Inbox
from concertina_trainer.loop.memberships import ROUND_SECONDS, Memberships

ME = Member(pod="tiny-0", uid="u0", incarnation="1", host="127.0.0.1", port=1)
OTHER = ME.model_copy(update={"pod": "tiny-1", "uid": "u1"})
PATIENCE_SECONDS = 60.0


class SteppingInbox(Inbox):
    """Each look at the clock takes a second."""

    time = 1000.0

    def now(self) -> float:
        self.time += 1.0
        return self.time


class Workplace:
    """One worker's mailbox and what it makes of it."""

    def __init__(self, folder: Path) -> None:
        self.mailbox = folder
        context = worker_context(
            {
                "CONCERTINA_POD": ME.pod,
                "CONCERTINA_UID": ME.uid,
                "CONCERTINA_INCARNATION": ME.incarnation,
                "CONCERTINA_MAILBOX": str(folder),
                "CONCERTINA_RUN_DIR": str(folder),
            }
        )
        self.inbox = SteppingInbox(context)
        self.memberships = Memberships(
            self.inbox, timeout_seconds=PATIENCE_SECONDS, announce=lambda _: None
        )

    def publish(self, number: int, *members: Member) -> None:
        put(self.mailbox / "membership.json", Membership(round=number, members=members))

    def tell_to_end(self, *, seconds: float) -> None:
        put(self.mailbox / "notice.json", Notice(deadline=self.inbox.time + seconds))

    def trained(self) -> None:
        """A round was entered, and lasted for an hour."""
        self.memberships.entering(1)
        self.memberships.entered()
        self.inbox.time += 3600

    def seconds_until_it_gives_up(self) -> float:
        begun = self.inbox.time
        with pytest.raises(TimeoutError, match="no membership after round"):
            self.memberships.awaited()
        return self.inbox.time - begun

    def seconds_until_overtaken(self) -> float:
        begun = self.inbox.time
        while not self.memberships.is_overtaken():
            pass
        return self.inbox.time - begun


@pytest.fixture
def workplace(tmp_path):
    return Workplace(tmp_path)


def about(seconds):
    return pytest.approx(seconds, abs=5)


def test_who_has_trained_waits_for_an_operator_for_the_given_time(workplace):
    workplace.trained()
    assert workplace.seconds_until_it_gives_up() == about(PATIENCE_SECONDS)


def test_a_pod_that_must_end_leaves_for_saving_as_long_as_it_has_waited(workplace):
    workplace.trained()
    workplace.tell_to_end(seconds=30)
    assert workplace.seconds_until_it_gives_up() == about(15)


def test_any_newer_membership_concerns_who_has_trained(workplace):
    workplace.trained()
    workplace.tell_to_end(seconds=30)
    workplace.publish(2, OTHER)
    assert workplace.memberships.awaited().round == 2


def test_who_was_in_no_round_waits_for_one_that_names_it_and_leaves_when_it_must_end(workplace):
    workplace.publish(2, OTHER, ME)
    assert workplace.memberships.awaited().round == 2
    workplace.memberships.entering(2)
    workplace.tell_to_end(seconds=30)
    assert workplace.memberships.awaited() is None


def test_who_enters_a_round_alone_waits_for_the_others_no_longer_than_a_round_may_take(workplace):
    workplace.trained()
    workplace.memberships.entering(2)
    workplace.tell_to_end(seconds=30)  # it may hand over its part until the last moment
    assert workplace.seconds_until_overtaken() == about(ROUND_SECONDS)
    # What it waited there counts: nobody has published in all that time.
    assert workplace.seconds_until_it_gives_up() == about(0)


def test_a_newer_membership_ends_the_waiting_for_an_older_one(workplace):
    workplace.trained()
    workplace.memberships.entering(2)
    workplace.publish(3, ME)
    assert workplace.seconds_until_overtaken() == 0
    workplace.memberships.entering(3)
    assert workplace.seconds_until_overtaken() == about(ROUND_SECONDS)


def test_a_joiner_waits_for_the_end_of_a_step_however_long_it_is(workplace):
    workplace.memberships.entering(2)
    workplace.inbox.time += 100 * ROUND_SECONDS
    assert not workplace.memberships.is_overtaken()


@pytest.mark.parametrize(
    ("status", "want"),
    [
        pytest.param({}, True, id="finished"),
        pytest.param({"phase": PodPhase.TRAINING}, False, id="not at its end"),
        pytest.param({"phase": PodPhase.LEFT}, False, id="only left"),
        pytest.param({"finished": False}, False, id="told to stop"),
        pytest.param({"incarnation": "2"}, False, id="another start of the pod"),
    ],
)
def test_a_worker_sees_that_another_of_its_pod_is_finished(workplace, status, want):
    told = {"incarnation": ME.incarnation, "phase": PodPhase.FINISHED, "finished": True, **status}
    assert not workplace.inbox.sees_finished()
    put(worker_file(workplace.mailbox, 1), WorkerStatus(local_rank=1, pid=7, **told))
    assert workplace.inbox.sees_finished() is want
