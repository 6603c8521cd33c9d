"""Whether the API server would take a job's pods, asked of a real one."""

import asyncio
from datetime import timedelta

import pytest

from concertina_operator.cluster.dry_run import DryRuns
from concertina_operator.cluster.facts import read_job
from tests.concertina_operator.cluster.refusing import dead_webhook, forbidding_policy, quota
from tests.concertina_operator.cluster.trainers import a_trained_job
from tests.concertina_operator.cluster.workbench import CountedApi
from tests.concertina_operator.factories import at


@pytest.fixture
def jobs(api, namespace, resources, monkeypatch):
    """Makes a job with this container, which nobody serves."""
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(resources.kubeconfig))
    path = f"/apis/concertina.dev/v1alpha1/namespaces/{namespace}/adaptivetrainingjobs"

    def make(**container):
        document = a_trained_job()
        template = document["spec"]["pods"]["template"]
        template["spec"]["containers"] = [{"name": "trainer", "image": "x"} | container]
        return api.create(path, document)

    return make


def judged(job, *moments):
    """Verdicts at these moments, and how often the server was asked."""

    async def judge():
        async with CountedApi() as api:
            runs, found = DryRuns(api), []
            for moment in moments:
                asked = {"name": "tiny-lm-0", "now": at(moment)}
                found.append(await runs.verdict(read_job(job), job, **asked))
            waits = runs.time_to_next(job["metadata"]["uid"], now=at(moments[-1]))
            return found, api.sent["DRY RUN pods"], waits

    return asyncio.run(judge())


def test_a_good_template_is_tried_once(jobs):
    found, asked, wait = judged(jobs(), 0, 1, 10_000)
    assert ([verdict.is_valid for verdict in found], asked, wait) == ([True] * 3, 1, None)


def test_a_bad_template_is_tried_again_because_what_it_names_may_come_to_be(jobs):
    job = jobs(volumeMounts=[{"name": "missing", "mountPath": "/data"}])
    found, asked, wait = judged(job, 0, 1, 100)
    assert (asked, [verdict.is_valid for verdict in found]) == (2, [False] * 3)
    assert "missing" in found[0].message
    assert timedelta(seconds=60) <= wait <= timedelta(seconds=120)


@pytest.mark.parametrize(
    "refusing",
    [
        pytest.param(forbidding_policy, id="a policy"),
        pytest.param(dead_webhook, id="a webhook"),
        pytest.param(lambda api, namespace: quota(api, namespace, pods=0), id="a quota"),
    ],
)
def test_what_the_cluster_refuses_for_its_own_reasons_says_nothing_of_the_template(
    jobs, api, namespace, refusing
):
    with refusing(api, namespace):
        found, _, wait = judged(jobs(), 0)
    assert found == [None]
    assert wait is not None
