from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from concertina_api.v1alpha1 import Failure, FailureCause, Report, Resize, TrainingReport
from concertina_trainer.agent.report_object import ReportObject
from concertina_trainer.agent.retry import Retry
from tests.concertina_trainer.agent.pods import wait_for

PLURAL = "trainingreports"
OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "tiny-0", "uid": "u-0"}


def report(**fields):
    known = {"pod": "tiny-0", "uid": "u-0", "incarnation": "a", "time": datetime.now(UTC)}
    return Report.model_validate({**known, **fields})


@contextmanager
def reporting(api, **options):
    sink = ReportObject(api, **{"retry": Retry(first_seconds=0.05, most_seconds=0.1), **options})
    try:
        yield sink
    finally:
        sink.close()


@pytest.fixture
def sink(api):
    with reporting(api) as sink:
        yield sink


def deliver(sink, made):
    sink.send(made)
    assert sink.settled(within_seconds=30)
    return made


def stored(kubernetes):
    document = kubernetes.get(PLURAL, "tiny-0")
    return document and TrainingReport.model_validate(document).spec


def methods(kubernetes):
    return [request.method for request in kubernetes.requests]


def test_the_pod_owns_its_report_and_changes_only_what_changed(sink, kubernetes):
    first = deliver(sink, report(round=1))
    assert kubernetes.get(PLURAL, "tiny-0")["metadata"]["ownerReferences"] == [OWNER]
    assert stored(kubernetes) == first

    second = deliver(sink, report(round=2, time=first.time))
    assert stored(kubernetes) == second
    assert methods(kubernetes) == ["GET", "POST", "PATCH"]
    assert kubernetes.requests[-1].body == {"spec": {"round": 2}}
    assert kubernetes.requests[-1].content_type == "application/merge-patch+json"

    deliver(sink, report(round=2, time=first.time))
    assert len(kubernetes.requests) == 3  # nothing changed


def test_a_server_that_talks_nonsense_is_asked_again(sink, kubernetes, caplog):
    kubernetes.fail(200, body=b'{"metadata": []}')

    made = deliver(sink, report(round=1))

    assert stored(kubernetes) == made
    assert "AttributeError" in caplog.text  # nobody foresaw it, so it says where


def test_what_is_not_said_any_more_vanishes(sink, kubernetes):
    failure = Failure(round=1, incarnation="a", cause=FailureCause.SIGNAL)
    resize = Resize(round=1, world_size_before=1, world_size=2, step=3, pause_seconds=0.5)
    phases = {"greet": 0.1, "open": 0.2}
    deliver(
        sink, report(failure=failure, acknowledged=resize.model_copy(update={"phases": phases}))
    )

    later = deliver(sink, report(acknowledged=resize.model_copy(update={"phases": {"greet": 0.3}})))

    assert stored(kubernetes) == later


def test_the_report_of_an_earlier_pod_of_the_name_is_taken_over(sink, kubernetes):
    old = report(uid="u-9", round=8, leaving=True, port=5)
    document = TrainingReport(spec=old).model_dump(mode="json", by_alias=True, exclude_none=True)
    document["metadata"] = {"name": "tiny-0", "ownerReferences": [OWNER | {"uid": "u-9"}]}
    kubernetes.put(PLURAL, document)

    mine = deliver(sink, report())

    assert stored(kubernetes) == mine
    assert kubernetes.get(PLURAL, "tiny-0")["metadata"]["ownerReferences"] == [OWNER]


def test_a_report_that_was_deleted_is_written_again_with_the_next_one(sink, kubernetes):
    deliver(sink, report(round=1))
    kubernetes.delete(PLURAL, "tiny-0")

    second = deliver(sink, report(round=2))

    assert stored(kubernetes) == second


def test_a_report_that_was_deleted_is_written_again_in_time_without_a_next_one(api, kubernetes):
    with reporting(api, review_seconds=0.1) as sink:
        only = deliver(sink, report(round=1))
        kubernetes.delete(PLURAL, "tiny-0")
        wait_for(lambda: stored(kubernetes), lambda: "the report is back")
        assert stored(kubernetes) == only
        seen = len(kubernetes.requests)
        wait_for(lambda: len(kubernetes.requests) > seen + 2, lambda: "more reviews")
        assert set(methods(kubernetes)[seen:]) == {
            "GET"
        }  # a review of what is right writes nothing


def test_the_newest_report_wins_while_the_server_is_away(sink, kubernetes, caplog):
    caplog.set_level("INFO")
    deliver(sink, report(round=1))
    kubernetes.stop()

    for number in range(2, 40):
        sink.send(report(round=number))
    assert not sink.settled(within_seconds=0.3)
    seen = len(kubernetes.requests)
    kubernetes.start()

    assert sink.settled(within_seconds=30)
    assert stored(kubernetes).round == 39
    assert methods(kubernetes)[seen:] == ["GET", "PATCH"]
    assert "the report is written again" in caplog.text


@pytest.mark.parametrize("status", [401, 403, 409, 422, 500, 503])
def test_whatever_the_server_refuses_is_tried_again(sink, kubernetes, status, caplog):
    kubernetes.fail(status, times=3, matches=lambda request: request.method != "GET")

    made = deliver(sink, report(round=1))

    assert stored(kubernetes) == made
    assert caplog.text.count("the report is not written, trying again") == 1


def test_a_server_that_has_too_much_to_do_is_left_alone(sink, kubernetes):
    kubernetes.fail(429, headers={"Retry-After": "1"})

    sink.send(report(round=1))
    wait_for(lambda: kubernetes.requests, lambda: "a first try")
    deliver(sink, report(round=2))

    refused, after = kubernetes.requests[:2]
    assert after.at - refused.at >= 1
    assert stored(kubernetes).round == 2


def test_an_expired_token_is_replaced_by_that_in_the_file(sink, kubernetes):
    deliver(sink, report(round=1))
    kubernetes.token = "second"

    sink.send(report(round=2))
    assert not sink.settled(within_seconds=0.2)
    kubernetes.credentials.joinpath("token").write_text("second")

    assert sink.settled(within_seconds=30)
    assert stored(kubernetes).round == 2


def test_a_sink_without_a_report_is_settled_and_ends_at_once(api, kubernetes):
    with reporting(api, review_seconds=0.05) as sink:
        assert sink.settled(within_seconds=0.2)
    assert not kubernetes.requests
