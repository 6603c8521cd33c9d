"""One reconcile after another on a real API server, when something is in the way."""

import asyncio

import pytest

from concertina_api.v1alpha1 import PodPhase, Report, TrainingReport
from concertina_operator.cluster.errors import Unreachable
from concertina_operator.cluster.last_words import LastWords
from concertina_operator.cluster.store import Key
from tests.concertina_operator.cluster.refusing import quota
from tests.concertina_operator.cluster.trainers import a_trained_job
from tests.concertina_operator.cluster.workbench import CountedApi, Workbench

HOUR = 3600.0


@pytest.fixture
def group(resources, namespace, monkeypatch):
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(resources.kubeconfig))
    return f"/apis/concertina.dev/v1alpha1/namespaces/{namespace}"


@pytest.fixture
def job(api, group):
    """A job that nobody serves but the test."""
    return api.create(f"{group}/adaptivetrainingjobs", a_trained_job())


@pytest.fixture
def edit(api, group):
    """Changes the job's spec; the document after that."""
    path = f"{group}/adaptivetrainingjobs/tiny-lm"
    return lambda **spec: api.patch(path, {"spec": spec})


def served(job, work):
    """What `work` returns, which is given a workbench."""

    async def serve():
        async with CountedApi() as api:
            bench = Workbench(api, job)
            posting = asyncio.create_task(bench.events.run())
            result = await work(bench)
            async with asyncio.timeout(30):
                await bench.events.flush()
            posting.cancel()
            return result

    return asyncio.run(serve())


@pytest.fixture
def reasons(api, namespace):
    """Reasons of the events that were told."""
    path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"

    def found():
        told = (event for event in api.list(path) if event["regarding"]["name"] == "tiny-lm")
        return {event["reason"] for event in told}

    return found


def test_what_was_decided_is_told_even_if_it_could_not_be_done(job, reasons):
    async def work(bench):
        bench.api.lost.add("POST pods")
        with pytest.raises(Unreachable):
            await bench.reconcile()

    served(job, work)
    assert "Starting" in reasons()
    assert "PodsCreated" not in reasons()


def test_a_refused_pod_is_not_created_any_more_when_the_job_is_only_to_be_advised(
    job, api, namespace, edit
):
    async def work(bench):
        with quota(api, namespace, pods=0):
            await bench.reconcile()
            assert "exceeded quota" in bench.refusals.of(bench.uid)[0].words
        bench.show(edit(scaling={"mode": "Recommend"}))
        for _ in range(3):
            await bench.reconcile(later=HOUR)
        return bench.refusals.of(bench.uid)

    assert served(job, work) == ()
    assert api.list(f"/api/v1/namespaces/{namespace}/pods") == []


def test_a_refused_pod_is_created_when_it_may_be(job, api, namespace, reasons):
    async def work(bench):
        with quota(api, namespace, pods=0):
            await bench.reconcile()
            await bench.reconcile(later=1)
        await bench.reconcile(later=60)

    served(job, work)
    (pod,) = api.list(f"/api/v1/namespaces/{namespace}/pods")
    assert pod["metadata"]["name"] == "tiny-lm-0"
    assert {"PodRefused", "PodsCreated"} <= reasons()


def test_a_template_that_becomes_invalid_is_told_before_a_pod_is_missing(job, edit, reasons):
    async def work(bench):
        await bench.reconcile()
        assert bench.condition("TemplateValid")["status"] == "True"
        template = a_trained_job()["spec"]["pods"]["template"]
        template["spec"]["containers"][0]["imagee"] = "x"
        bench.show(edit(pods={"template": template}))
        await bench.reconcile(later=1)
        return bench

    bench = served(job, work)
    found = bench.condition("TemplateValid")
    assert (found["status"], bench.api.sent["POST pods"]) == ("False", 1)
    assert 'unknown field "spec.containers[0].imagee"' in found["message"]
    assert "TemplateInvalid" in reasons()


def test_a_job_without_a_valid_template_says_so_instead_of_starting(job, edit, reasons):
    template = a_trained_job()["spec"]["pods"]["template"]
    template["spec"]["containers"][0]["imagee"] = "x"

    async def work(bench):
        bench.show(edit(pods={"template": template}))
        for _ in range(3):
            await bench.reconcile(later=HOUR)
        return bench

    bench = served(job, work)
    assert bench.status()["state"] == "TemplateInvalid"
    assert bench.condition("PodsReady")["reason"] == "TemplateInvalid"
    assert bench.api.sent["POST pods"] == 0
    assert reasons().isdisjoint({"PodsReleased", "PodGivenBack", "PodsCreated"})


def test_a_membership_of_somebody_else_costs_no_pods_and_no_rounds(job, api, group, reasons):
    kind = {"apiVersion": "concertina.dev/v1alpha1", "kind": "TrainingMembership"}
    foreign = kind | {"metadata": {"name": "tiny-lm"}, "spec": {"round": 7}}

    async def work(bench):
        bench.take_membership(api.create(f"{group}/trainingmemberships", foreign))
        for _ in range(3):
            await bench.reconcile(later=HOUR)
        return bench

    bench = served(job, work)
    assert (bench.status()["state"], bench.status()["round"]) == ("NameTaken", 0)
    assert bench.condition("NameTaken")["status"] == "True"
    assert bench.api.sent["POST pods"] == 0
    assert "NameTaken" in reasons()
    assert "RoundPublished" not in reasons()


def test_words_about_a_refused_binding_are_in_the_condition_of_the_pods_that_need_it(job):
    async def work(bench):
        bench.refusals.note_object(bench.uid, "RoleBinding", words="forbidden for the test")
        await bench.reconcile()
        bench.refusals.note_object(bench.uid, "RoleBinding", words="forbidden for the test")
        await bench.reconcile(later=10)
        return bench.condition("PodsReady")["message"]

    assert served(job, work).startswith("RoleBinding is not created: forbidden for the test; ")


def test_gpu_seconds_are_counted_between_writes_and_written_with_the_next_one(job, edit):
    async def work(bench):
        await bench.reconcile()  # creates the pod, which has a node
        await bench.reconcile(later=10)
        await bench.reconcile(later=10)
        record = bench.metrics.jobs.of(bench.key, uid=bench.uid)
        assert record.status.gpus == 1
        known, writes = record.status.gpu_seconds, bench.api.sent["PATCH adaptivetrainingjobs"]
        for _ in range(3):
            await bench.reconcile(later=20)
        assert bench.api.sent["PATCH adaptivetrainingjobs"] == writes
        assert record.status.gpu_seconds == known + 60
        # The pod is gone when the status is written next, and was not before.
        bench.pod_gone("tiny-lm-0")
        bench.show(edit(suspend=True))
        await bench.reconcile()
        assert record.status.gpus == 0
        return bench.status()["gpuSeconds"] - known

    assert served(job, work) == 60


@pytest.mark.parametrize("exit_code", [0, 1])
def test_what_a_pod_said_last_is_read_once_when_it_has_ended_well(
    job, api, group, namespace, exit_code
):
    pod = f"/api/v1/namespaces/{namespace}/pods/tiny-lm-0/status"
    state = {"terminated": {"exitCode": exit_code}}
    container = {"name": "trainer", "image": "x", "imageID": "x", "restartCount": 0}
    ended = {
        "phase": "Succeeded" if exit_code == 0 else "Failed",
        "containerStatuses": [container | {"ready": False, "state": state}],
    }

    async def work(bench):
        await bench.reconcile()
        uid = api.find(pod)["metadata"]["uid"]
        report = Report(
            pod="tiny-lm-0", uid=uid, incarnation="i1", phase=PodPhase.FINISHED, finished=True
        )
        document = TrainingReport(spec=report).model_dump(
            mode="json", by_alias=True, exclude_none=True
        )
        api.create(f"{group}/trainingreports", document | {"metadata": {"name": "tiny-lm-0"}})
        asked_while_it_ran = bench.api.sent["GET trainingreports"]
        bench.take_pod(api.patch(pod, {"status": ended}))
        words = LastWords(bench.api, watched=bench.watched, take_report=bench.take_report)
        for _ in range(2):
            await words.hear(bench.key, job_uid=bench.uid)
        heard = bench.watched.reports.get(Key(namespace, "tiny-lm-0"))
        return asked_while_it_ran, bench.api.sent["GET trainingreports"], heard

    before, asked, heard = served(job, work)
    assert before == 0
    if exit_code == 0:
        assert (asked, heard.report.phase) == (1, PodPhase.FINISHED)
    else:
        assert (asked, heard) == (0, None)
