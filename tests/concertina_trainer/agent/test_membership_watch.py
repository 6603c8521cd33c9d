from contextlib import contextmanager

import pytest

from concertina_trainer.agent.membership_watch import MembershipWatch
from concertina_trainer.agent.retry import Retry
from tests.concertina_trainer.agent.pods import wait_for

PLURAL = "trainingmemberships"


def publish(kubernetes, number, *, name="tiny", metadata=None, **fields):
    return kubernetes.put(
        PLURAL,
        {
            "apiVersion": "concertina.dev/v1alpha1",
            "kind": "TrainingMembership",
            "metadata": {"name": name, "uid": "m", **(metadata or {})},
            "spec": {"round": number, **fields},
        },
    )


@contextmanager
def watching(api, **options):
    source = MembershipWatch(
        api, "tiny", **{"retry": Retry(first_seconds=0.05, most_seconds=0.1), **options}
    )
    try:
        yield source
    finally:
        source.close()


@pytest.fixture
def source(api):
    with watching(api) as source:
        yield source


def until_round(source, number):
    wait_for(
        lambda: (latest := source.latest()) is not None and latest.round == number,
        lambda: f"round {number}: {source.latest()}",
    )


def watches(kubernetes):
    return [request for request in kubernetes.requests if request.is_watch]


def until_watches(kubernetes, count):
    wait_for(lambda: len(watches(kubernetes)) >= count, lambda: f"{count} watches")


def test_none_at_the_start_means_that_the_job_is_gone_where_there_was_one(api):
    with watching(api, is_due=True) as source:
        wait_for(source.gone, lambda: "it waits for a first one")
        assert source.latest() is None


def test_the_newest_membership_is_known_from_its_first_to_its_deletion(source, kubernetes):
    until_watches(kubernetes, 1)
    assert source.latest() is None

    publish(kubernetes, 99, name="other")
    publish(kubernetes, 3)
    until_round(source, 3)
    publish(kubernetes, 3, probe=7)
    wait_for(lambda: source.latest().probe == 7, lambda: "the probe")
    publish(kubernetes, 2)
    publish(kubernetes, 5)
    until_round(source, 5)  # and never 2: events come in order
    assert not source.gone()

    kubernetes.delete(PLURAL, "other")
    publish(kubernetes, 6)
    until_round(source, 6)
    assert not source.gone()
    kubernetes.delete(PLURAL, "tiny")
    wait_for(source.gone, lambda: "gone")
    assert source.latest().round == 6
    assert len(watches(kubernetes)) == 1


def test_a_membership_that_is_about_to_be_deleted_is_gone(source, kubernetes):
    publish(kubernetes, 1)
    until_round(source, 1)

    publish(kubernetes, 1, metadata={"deletionTimestamp": "2026-01-02T00:00:00Z"})

    wait_for(source.gone, lambda: "gone")


def test_the_membership_of_an_earlier_job_of_the_name_is_none(api, kubernetes):
    publish(kubernetes, 8, metadata=owned_by("old"))
    with watching(api, uid="new") as source:
        until_watches(kubernetes, 1)
        publish(kubernetes, 9, metadata=owned_by("old"))
        kubernetes.delete(PLURAL, "tiny")
        publish(kubernetes, 1, metadata=owned_by("new"))
        until_round(source, 1)
        assert not source.gone()

        kubernetes.fail(503, times=3, matches=lambda request: request.is_watch)
        kubernetes.cut()
        kubernetes.delete(PLURAL, "tiny")
        publish(kubernetes, 1, metadata=owned_by("newest"))
        kubernetes.forget()
        wait_for(source.gone, lambda: "gone")


def owned_by(uid):
    owner = {"kind": "AdaptiveTrainingJob", "name": "tiny", "uid": uid}
    return {"uid": f"m-{uid}", "ownerReferences": [owner]}


def test_the_membership_of_nobody_or_of_another_job_is_none(api, kubernetes):
    publish(kubernetes, 8)
    with watching(api, uid="new") as source:
        until_watches(kubernetes, 1)
        publish(kubernetes, 9, metadata=owned_by("old"))
        kubernetes.delete(PLURAL, "tiny")
        publish(kubernetes, 1, metadata=owned_by("new"))
        until_round(source, 1)
        assert not source.gone()

        publish(kubernetes, 2, metadata={"uid": "m-new"})  # without its owner, but the same
        until_round(source, 2)
        kubernetes.fail(503, times=3, matches=lambda request: request.is_watch)
        kubernetes.cut()
        kubernetes.delete(PLURAL, "tiny")
        publish(kubernetes, 7)
        kubernetes.forget()
        wait_for(source.gone, lambda: "gone")
        assert source.latest().round == 2


def test_a_membership_that_is_not_valid_is_ignored(source, kubernetes, caplog):
    publish(kubernetes, 1)
    until_round(source, 1)

    publish(kubernetes, -1)
    publish(kubernetes, 2)

    until_round(source, 2)
    assert "a membership that is not valid is ignored" in caplog.text


def test_a_server_that_talks_nonsense_is_asked_again(source, kubernetes, caplog):
    publish(kubernetes, 1)
    until_round(source, 1)

    nonsense = b'{"type": "ADDED", "object": {"metadata": []}}\n'
    kubernetes.fail(200, body=nonsense, matches=lambda request: request.is_watch)
    kubernetes.cut()
    publish(kubernetes, 2)

    until_round(source, 2)
    assert "AttributeError" in caplog.text  # nobody foresaw it, so it says where


def test_a_cut_connection_goes_on_from_the_last_version(source, kubernetes):
    publish(kubernetes, 1)
    until_round(source, 1)
    seen = publish(kubernetes, 2)["metadata"]["resourceVersion"]
    until_round(source, 2)

    kubernetes.cut()
    until_watches(kubernetes, 2)

    assert watches(kubernetes)[-1].query["resourceVersion"] == seen
    assert sum(not request.is_watch for request in kubernetes.requests) == 1  # read once only


def test_bookmarks_move_the_version_to_go_on_from(source, kubernetes):
    publish(kubernetes, 1)
    until_round(source, 1)
    mark = kubernetes.bookmark()
    wait_for(lambda: kubernetes.told == mark, lambda: f"{mark} is told: {kubernetes.told}")

    kubernetes.cut()
    until_watches(kubernetes, 2)

    assert watches(kubernetes)[-1].query["resourceVersion"] == str(mark)


def test_a_deletion_while_the_connection_was_cut_is_seen(source, kubernetes):
    publish(kubernetes, 1)
    until_round(source, 1)

    kubernetes.fail(503, times=3, matches=lambda request: request.is_watch)
    kubernetes.cut()
    kubernetes.delete(PLURAL, "tiny")

    wait_for(source.gone, lambda: "gone")


@pytest.mark.parametrize("form", ["an event", "an answer"])
def test_a_server_that_forgot_the_version_is_asked_anew(source, kubernetes, form):
    publish(kubernetes, 1)
    until_round(source, 1)

    kubernetes.fail(503, times=3, matches=lambda request: request.is_watch)
    if form == "an answer":
        kubernetes.fail(410, matches=lambda request: request.is_watch)
    kubernetes.cut()
    publish(kubernetes, 2)
    kubernetes.forget()

    until_round(source, 2)
    assert "resourceVersion" not in watches(kubernetes)[-1].query
    kubernetes.fail(503, times=3, matches=lambda request: request.is_watch)
    kubernetes.cut()
    kubernetes.delete(PLURAL, "tiny")
    kubernetes.forget()
    wait_for(source.gone, lambda: "gone")


def test_a_path_that_is_not_served_does_not_end_the_job(source, kubernetes):
    publish(kubernetes, 1)
    until_round(source, 1)

    kubernetes.forget()
    kubernetes.bookmark()
    kubernetes.fail(410, matches=lambda request: request.is_watch)
    kubernetes.fail(404, times=5, body=b"404 page not found")
    kubernetes.cut()
    wait_for(lambda: not kubernetes.faults, lambda: "all faults were met")
    publish(kubernetes, 2)

    until_round(source, 2)
    assert not source.gone()


def test_a_silent_connection_is_noticed(api, kubernetes):
    with watching(api, silence_seconds=0.3) as source:
        publish(kubernetes, 1)
        until_round(source, 1)
        kubernetes.silent = True
        publish(kubernetes, 2)
        until_watches(kubernetes, 2)
        kubernetes.silent = False
        until_round(source, 2)


def test_a_watch_that_the_server_ends_in_time_is_opened_again(api, kubernetes):
    with watching(api, watch_seconds=1) as source:
        publish(kubernetes, 1)
        until_watches(kubernetes, 3)
        publish(kubernetes, 2)
        until_round(source, 2)


def test_a_server_that_has_too_much_to_do_is_left_alone(source, kubernetes):
    publish(kubernetes, 1)
    until_round(source, 1)
    kubernetes.fail(429, headers={"Retry-After": "1"}, matches=lambda request: request.is_watch)
    kubernetes.cut()

    until_watches(kubernetes, 3)

    refused, after = watches(kubernetes)[-2:]
    assert after.at - refused.at >= 1


def test_nothing_is_lost_while_the_server_is_away(source, kubernetes, caplog):
    publish(kubernetes, 1)
    until_round(source, 1)

    kubernetes.stop()
    publish(kubernetes, 2)
    wait_for(lambda: "is not watched now" in caplog.text, lambda: "the loss is noticed")
    assert source.latest().round == 1
    assert not source.gone()
    kubernetes.start()

    until_round(source, 2)


def test_a_new_token_is_used_when_the_old_one_has_expired(source, kubernetes):
    publish(kubernetes, 1)
    until_round(source, 1)
    kubernetes.token = "second"
    kubernetes.cut()
    count = len(watches(kubernetes))
    until_watches(kubernetes, count + 1)

    publish(kubernetes, 2)
    kubernetes.credentials.joinpath("token").write_text("second\n")

    until_round(source, 2)
