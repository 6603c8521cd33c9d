"""Reconciles on a real API server whose answers to the creation of a pod are lost."""

import asyncio

import pytest

from concertina_operator.cluster import paths
from concertina_operator.cluster.errors import Unreachable
from concertina_operator.cluster.pod import JOB_LABEL
from tests.concertina_operator.cluster.trainers import a_trained_job
from tests.concertina_operator.cluster.workbench import CountedApi, Workbench

POST, GET = "POST pods", "GET pods"
NAME = "tiny-lm-0"


@pytest.fixture
def job(resources, api, namespace, monkeypatch):
    """A job that nobody serves but the test."""
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(resources.kubeconfig))
    path = f"/apis/concertina.dev/v1alpha1/namespaces/{namespace}/adaptivetrainingjobs"
    return api.create(path, a_trained_job())


def after_silence(job, kind, work):
    """What `work` returns of a workbench whose first creation was not answered.

    `kind` "lost": it never arrived; "unheard": the pod is there.
    """

    async def serve():
        async with CountedApi() as api:
            bench = Workbench(api, job)
            silence = getattr(api, kind)
            silence.add(POST)
            with pytest.raises(Unreachable):
                await bench.reconcile()
            silence.remove(POST)
            return await work(bench)

    return asyncio.run(serve())


def known(bench):
    return {key.name for key in bench.watched.pods.all_keys()}


def test_a_pod_that_is_there_is_known_to_the_next_plan_which_creates_no_other(job, api, namespace):
    async def work(bench):
        assert known(bench) == set()
        for _ in range(2):
            await bench.reconcile(later=1)
        return bench

    bench = after_silence(job, "unheard", work)
    assert known(bench) == {NAME}
    assert (bench.api.sent[POST], bench.api.sent[GET]) == (1, 1)
    assert [pod["metadata"]["name"] for pod in api.list(paths.pods(namespace))] == [NAME]


def test_a_pod_that_is_not_there_is_created_again(job, api, namespace):
    async def work(bench):
        for _ in range(2):
            await bench.reconcile(later=1)
        return bench

    bench = after_silence(job, "lost", work)
    assert known(bench) == {NAME}
    assert (bench.api.sent[POST], bench.api.sent[GET]) == (2, 1)
    assert [pod["metadata"]["name"] for pod in api.list(paths.pods(namespace))] == [NAME]


@pytest.mark.parametrize("kind", ["lost", "unheard"])
def test_nothing_is_created_while_it_cannot_be_looked_at(job, kind):
    async def work(bench):
        bench.api.lost.add(GET)
        for _ in range(2):
            with pytest.raises(Unreachable):
                await bench.reconcile(later=1)
        assert bench.api.sent[POST] == 1
        bench.api.lost.remove(GET)
        await bench.reconcile(later=1)
        return known(bench)

    assert after_silence(job, kind, work) == {NAME}


def test_a_pod_of_that_name_that_nobody_watches_is_left_to_the_creation(job, api, namespace):
    async def work(bench):
        path = paths.pods(namespace, NAME)
        api.patch(path, {"metadata": {"labels": {JOB_LABEL: None}}})
        await bench.reconcile(later=1)
        return [refusal.words for refusal in bench.refusals.of(bench.uid)]

    (words,) = after_silence(job, "unheard", work)
    assert words == f"a pod of this name has lost its label {JOB_LABEL}; it is deleted"


def test_nothing_is_asked_for_a_job_that_is_gone(job):
    async def work(bench):
        bench.watched.job_gone(bench.key)
        await bench.reconcile()
        await bench.hands.look(bench.key, uid=bench.uid)
        return bench.api.sent[GET]

    assert after_silence(job, "unheard", work) == 0
