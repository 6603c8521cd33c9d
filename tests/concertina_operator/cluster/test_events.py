import asyncio
from dataclasses import replace

import pytest

from concertina_operator.actions import Event, EventType
from concertina_operator.cluster import paths
from concertina_operator.cluster.client import Api
from concertina_operator.cluster.events import (
    BURST,
    SECONDS_PER_EVENT,
    WINDOW_SECONDS,
    Events,
    event_document,
)
from concertina_operator.cluster.metrics import Metrics
from tests.concertina_operator.cluster.workbench import CountedApi
from tests.concertina_operator.factories import at

RESIZED = Event(type=EventType.NORMAL, reason="Resized", message="1 to 2 workers in 0.3 s")
JOB = {
    "apiVersion": "concertina.dev/v1alpha1",
    "kind": "AdaptiveTrainingJob",
    "metadata": {"name": "tiny-lm", "namespace": "ml", "uid": "job-uid"},
}


def named(event=RESIZED, *, now=0.0, instance="a", job=JOB):
    return event_document(job, event, instance=instance, now=at(now))["metadata"]["name"]


def test_a_repetition_has_the_name_of_the_first_whoever_tells_it():
    assert named(instance="a") == named(instance="b", now=1)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"now": WINDOW_SECONDS + 1}, id="a while later"),
        pytest.param(
            {"event": Event(type=EventType.NORMAL, reason="Resized", message="again")}, id="words"
        ),
        pytest.param({"job": JOB | {"metadata": JOB["metadata"] | {"uid": "new"}}}, id="job"),
    ],
)
def test_what_is_no_repetition_has_another_name(other):
    assert named(**other) != named()


def test_a_long_message_is_cut_to_what_the_api_server_takes():
    long = Event(type=EventType.WARNING, reason="Refused", message="x" * 5000)
    assert len(event_document(JOB, long, instance="a", now=at(0))["note"]) == 1024


def test_what_counts_for_the_api_server_are_the_bytes_of_a_message():
    long = Event(type=EventType.WARNING, reason="WorkerFailed", message="x" + "\u5931" * 512)
    note = event_document(JOB, long, instance="a", now=at(0))["note"]
    assert note == "x" + "\u5931" * 341


def test_the_end_of_a_traceback_stands_below_the_message_as_far_as_there_is_room():
    told = Event(type=EventType.WARNING, reason="WorkerFailed", message="m", detail="line\n" * 400)
    note = event_document(JOB, told, instance="a", now=at(0))["note"]
    assert len(note) == 1024
    assert note.startswith("m\n")
    assert note.endswith("line\nline\n")
    full = replace(told, message="x" * 1024)
    assert event_document(JOB, full, instance="a", now=at(0))["note"] == "x" * 1024


def test_a_job_that_has_too_much_to_tell_takes_no_room_from_the_others():
    metrics = Metrics()
    events = Events(Api(), instance="a", metrics=metrics)
    found = [
        Event(type=EventType.WARNING, reason="ReportRefused", message=f"{number}")
        for number in range(BURST + 10)
    ]
    assert events.tell(JOB, found, now=at(0)) == tuple(found[:BURST])
    other = JOB | {"metadata": JOB["metadata"] | {"uid": "other"}}
    assert events.tell(other, [RESIZED], now=at(0)) == (RESIZED,)
    assert "concertina_operator_events_lost_total 10.0" in metrics.text().decode()
    assert events.tell(JOB, [RESIZED], now=at(SECONDS_PER_EVENT)) == (RESIZED,)


def test_the_api_server_takes_events_and_has_each_once(control_plane, namespace, monkeypatch):
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(control_plane.kubeconfig))
    job = JOB | {"metadata": JOB["metadata"] | {"namespace": namespace}}

    async def test():
        async with Api() as api:
            for instance in ("leader", "the leader after it"):
                events = Events(api, instance=instance, metrics=Metrics())
                assert events.tell(job, [RESIZED], now=at(0)) == (RESIZED,)
                assert events.tell(job, [RESIZED], now=at(1)) == ()
                posting = asyncio.create_task(events.run())
                async with asyncio.timeout(20):
                    await events.flush()
                posting.cancel()
            return (await api.call("GET", paths.events(namespace)))["items"]

    (found,) = [event for event in asyncio.run(test()) if event["regarding"]["name"] == "tiny-lm"]
    assert (found["reason"], found["note"]) == ("Resized", RESIZED.message)
    assert found["reportingInstance"] == "leader"


def test_an_event_outlives_a_short_absence_of_the_api_server(control_plane, namespace, monkeypatch):
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(control_plane.kubeconfig))
    job = JOB | {"metadata": JOB["metadata"] | {"namespace": namespace}}

    async def test():
        async with CountedApi() as api:
            events = Events(api, instance="leader", metrics=Metrics())
            api.lost.add("POST events")
            events.tell(job, [RESIZED], now=at(0))
            posting = asyncio.create_task(events.run())
            async with asyncio.timeout(20):
                while not api.sent["POST events"]:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.01)
                api.lost.clear()
                await events.flush()
            posting.cancel()
            return (await api.call("GET", paths.events(namespace)))["items"]

    told = [event["reason"] for event in asyncio.run(test()) if "regarding" in event]
    assert "Resized" in told
