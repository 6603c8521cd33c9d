import threading

import pytest

from concertina_api.v1alpha1 import Member, Membership
from concertina_trainer.agent.mailbox import put
from concertina_trainer.agent.pulse import newest_beat
from concertina_trainer.rounds import watch as watching
from concertina_trainer.rounds.watch import GIVEN_UP_SECONDS, Watch, is_hopeless
from tests.concertina_trainer.agent.pods import wait_for

DEADLINE_SECONDS = 60.0


def a_membership(number, *names, leaving=()):
    members, leavers = (
        tuple(
            Member(pod=name, uid=f"uid-{name}", incarnation="i0", host="127.0.0.1", port=1)
            for name in group
        )
        for group in (names, leaving)
    )
    return Membership(round=number, members=members, leaving=leavers)


ENTERED = a_membership(4, "b", "c", leaving=["a"])


@pytest.mark.parametrize(
    ("newest", "overtaken", "want"),
    [
        pytest.param(a_membership(5, "b"), None, True, id="a member is gone"),
        pytest.param(a_membership(5, "b"), 0.0, True, id="a member is gone while all enter"),
        pytest.param(a_membership(5, "b", leaving=["c"]), None, False, id="a member leaves"),
        pytest.param(
            a_membership(5, "b", leaving=["c"]), 0.0, False, id="the leaver of this round has left"
        ),
        pytest.param(
            a_membership(5, "b", "c"), GIVEN_UP_SECONDS + 0.1, True, id="this round was given up"
        ),
        pytest.param(a_membership(5, "b", "c"), None, False, id="all train on"),
    ],
)
def test_a_newer_round_says_whether_an_older_one_can_go_on(newest, overtaken, want):
    needed = frozenset(ENTERED.workers())
    assert is_hopeless(newest, needed=needed, overtaken_seconds=overtaken) is want


def test_waiting_for_a_lost_member_is_broken_off(tmp_path):
    broken = threading.Event()
    watch = Watch(tmp_path, broken.set, heartbeat=tmp_path / "heartbeat")
    try:
        watch.training(ENTERED.round, ENTERED.workers())
        put(tmp_path / "membership.json", a_membership(5, "b"))
        assert broken.wait(DEADLINE_SECONDS)
    finally:
        watch.stop()


def test_signs_of_life_come_until_the_watch_is_stopped(tmp_path):
    heartbeat = tmp_path / "heartbeat"
    watch = Watch(tmp_path, lambda: None, heartbeat=heartbeat)
    try:
        first = wait_for(lambda: newest_beat(heartbeat), lambda: "a beat")
        wait_for(lambda: newest_beat(heartbeat) != first, lambda: "another")
    finally:
        watch.stop()
    wait_for(lambda: not heartbeat.exists(), lambda: "nothing is expected any more")


def test_who_waits_on_without_connections_gives_no_more_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "STUCK_SECONDS", 0.0)
    monkeypatch.setattr(watching, "BEAT_SECONDS", 0.0)
    heartbeat, broken = tmp_path / "heartbeat", threading.Event()
    watch = Watch(tmp_path, broken.set, heartbeat=heartbeat)

    def beats():
        before = newest_beat(heartbeat)
        broken.clear()
        assert broken.wait(DEADLINE_SECONDS)  # the thread has come round
        return newest_beat(heartbeat) != before

    try:
        watch.training(ENTERED.round, ENTERED.workers())
        put(tmp_path / "membership.json", a_membership(5, "b"))
        assert broken.wait(DEADLINE_SECONDS)
        wait_for(lambda: not beats(), lambda: "silence")
        assert not beats()
        watch.idle()
        last = newest_beat(heartbeat)
        wait_for(lambda: newest_beat(heartbeat) != last, lambda: "a sign of life")
    finally:
        watch.stop()
