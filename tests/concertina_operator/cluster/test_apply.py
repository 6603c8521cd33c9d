"""What the operator's hands do when a real API server takes only a part."""

import asyncio
from contextlib import closing
from dataclasses import replace

import pytest
from aiohttp import web

from concertina_api.v1alpha1 import JobStatus
from concertina_operator.actions import CreatePod, DeletePod, Plan, PublishMembership
from concertina_operator.cluster import paths
from concertina_operator.cluster.apply import CREATIONS
from concertina_operator.cluster.bindings import TrainerBindings
from concertina_operator.cluster.credentials import Credentials
from concertina_operator.cluster.errors import Refused
from tests.cluster.api import Api, wait_for
from tests.concertina_operator.cluster.listening import listening
from tests.concertina_operator.cluster.processes import operator_kubeconfig
from tests.concertina_operator.cluster.refusing import dead_webhook, quota, why_refused
from tests.concertina_operator.cluster.trainers import a_trained_job
from tests.concertina_operator.cluster.workbench import CountedApi, Workbench
from tests.concertina_operator.factories import a_membership, at

NOTHING = Plan(actions=(), status=JobStatus(), events=(), requeue_after=None, reason="because")
NUM_PODS = 20


@pytest.fixture
def reach(resources, monkeypatch):
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(resources.kubeconfig))


@pytest.fixture
def job(api, namespace):
    """A job that nobody serves."""
    path = f"/apis/concertina.dev/v1alpha1/namespaces/{namespace}/adaptivetrainingjobs"
    return api.create(path, a_trained_job())


def acted(job, *plans):
    """The workbench and what became of each plan."""

    async def act():
        async with CountedApi() as api:
            bench = Workbench(api, job)
            return bench, [await bench.hands.apply(plan, target=bench.target) for plan in plans]

    return asyncio.run(act())


def creating(number):
    names = (f"tiny-lm-{index}" for index in range(number))
    return tuple(CreatePod(name=name, index=index) for index, name in enumerate(names))


def publishing(number):
    return replace(NOTHING, actions=(PublishMembership(membership=a_membership(number, 0)),))


@pytest.mark.usefixtures("reach")
def test_a_full_quota_is_not_asked_for_every_pod(job, api, namespace):
    plan = replace(NOTHING, actions=creating(NUM_PODS))
    waiting = tuple(f"tiny-lm-{index}" for index in range(NUM_PODS))
    retries = replace(NOTHING, actions=plan.actions[3:], starting=waiting)
    with quota(api, namespace, pods=2):
        bench, (first, again) = acted(job, plan, retries)
    assert len(first.created) == 2
    assert again.created == []
    found = bench.refusals.of(bench.uid)
    assert {refusal.name for refusal in found} == {*waiting} - {*first.created}
    assert all("exceeded quota" in refusal.words for refusal in found)
    # One pod, then two side by side, of which the second is refused; later one alone.
    assert bench.api.sent["POST pods"] == 3 + 1


@pytest.mark.usefixtures("reach")
def test_a_webhook_that_does_not_answer_refuses_a_pod_in_words(job, api, namespace):
    with dead_webhook(api, namespace):
        bench, (deeds,) = acted(job, replace(NOTHING, actions=creating(1)))
    assert (deeds.created, deeds.error) == ([], None)
    (refusal,) = bench.refusals.of(bench.uid)
    assert "failed calling webhook" in refusal.words


@pytest.mark.usefixtures("reach")
def test_a_membership_that_the_server_would_not_take_is_told_until_it_takes_one(job):
    bench, (first, refused, later) = acted(job, publishing(5), publishing(4), publishing(6))
    assert first.has_published
    assert not refused.has_published
    assert isinstance(refused.error, Refused)
    assert "round" in refused.refused["TrainingMembership"]
    assert later.has_published
    assert bench.refusals.objects_of(bench.uid) == {}


@pytest.mark.usefixtures("reach")
def test_pods_that_the_plan_does_not_want_any_more_are_not_waited_for(job, api, namespace):
    plan = replace(NOTHING, actions=creating(2))
    with quota(api, namespace, pods=0):
        bench, _ = acted(job, plan, replace(NOTHING, starting=("tiny-lm-1",)))
    assert [refusal.name for refusal in bench.refusals.of(bench.uid)] == ["tiny-lm-1"]


@pytest.mark.usefixtures("reach")
def test_a_pod_that_has_lost_its_label_is_deleted_and_its_name_used_again(job, api, namespace):
    path = f"{paths.pods(namespace)}/tiny-lm-0"
    plan = replace(NOTHING, actions=creating(1))
    acted(job, plan)
    api.patch(path, {"metadata": {"labels": {"concertina.dev/job": None}}})
    bench, (again,) = acted(job, plan)
    assert again.created == []
    assert [action.name for action in again.deleted] == ["tiny-lm-0"]
    (refusal,) = bench.refusals.of(bench.uid)
    assert refusal.words == (
        "a pod of this name has lost its label concertina.dev/job; it is deleted"
    )
    assert not refusal.is_taken
    assert bench.watched.pods.all_keys() == ()
    if api.find(path) is not None:
        api.delete(path, gracePeriodSeconds=0)
    _, (later,) = acted(job, plan)
    assert later.created == ["tiny-lm-0"]


@pytest.mark.usefixtures("reach")
def test_a_pod_that_has_changed_since_the_plan_is_not_deleted(job, api, namespace):
    path = f"{paths.pods(namespace)}/tiny-lm-0"

    async def act():
        async with CountedApi() as connection:
            bench = Workbench(connection, job)
            await bench.hands.apply(replace(NOTHING, actions=creating(1)), target=bench.target)
            planned_from = bench.target
            api.patch(path, {"metadata": {"annotations": {"is": "warm"}}})
            uid = api.get(path)["metadata"]["uid"]
            delete = DeletePod(name="tiny-lm-0", uid=uid, reason="late")
            return await bench.hands.apply(replace(NOTHING, actions=(delete,)), target=planned_from)

    deeds = asyncio.run(act())
    assert (deeds.deleted, deeds.error) == ([], None)
    assert "deletionTimestamp" not in api.get(path)["metadata"]


def test_without_the_right_to_bind_pods_are_created_and_that_is_told(
    job, resources, api, namespace, tmp_path, monkeypatch
):
    kubeconfig = operator_kubeconfig(resources, api, namespace, tmp_path / "kubeconfig")
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(kubeconfig))
    with closing(Api(kubeconfig)) as account:
        wait_for(
            lambda: not why_refused(account, namespace), lambda: why_refused(account, namespace)
        )
    bench, (deeds,) = acted(job, replace(NOTHING, actions=creating(1)))
    assert deeds.created == ["tiny-lm-0"]
    assert "rolebindings" in deeds.refused["RoleBinding"]
    assert bench.refusals.objects_of(bench.uid) == deeds.refused


@pytest.mark.usefixtures("reach")
def test_a_binding_that_was_deleted_is_made_again(api, namespace):
    path = f"{paths.role_bindings(namespace)}/concertina-trainer"

    async def bind(moments):
        async with CountedApi() as connection:
            bindings = TrainerBindings(connection)
            for moment in moments:
                assert await bindings.ensure(namespace, now=at(moment)) == ""
                api.delete(path)
            return connection.sent["POST rolebindings"]

    assert asyncio.run(bind([0, 1, 61])) == 2
    assert asyncio.run(bind([0])) == 1


def test_pods_that_wait_for_a_slow_server_hold_up_nothing_else():
    metadata = {"namespace": "ml", "uid": "u", "generation": 1, "resourceVersion": "7"}
    job = a_trained_job()
    job["metadata"] |= metadata
    asked = asyncio.Queue()

    async def answer(request):
        if request.path.endswith("/pods"):
            asked.put_nowait(request.path)
            await asyncio.Event().wait()
        return web.json_response({})

    async def test():
        async with (
            asyncio.timeout(30),
            listening(answer) as url,
            CountedApi(credentials=lambda: Credentials(server=url)) as api,
        ):
            bench = Workbench(api, job)
            plan = replace(NOTHING, actions=creating(100))
            jobs = [
                asyncio.create_task(bench.hands.apply(plan, target=bench.target))
                for _ in range(3 * CREATIONS)
            ]
            for _ in range(CREATIONS):
                await asked.get()
            await api.call("PUT", paths.memberships("ml", "tiny-lm"), body={})
            assert asked.empty()
            for task in jobs:
                task.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    asyncio.run(test())
