import asyncio

import pytest

from concertina_operator.cluster.facts import HeardReport
from concertina_operator.cluster.observe import REPORTS_BURST, Watched
from concertina_operator.cluster.pod_facts import OwnedPod
from concertina_operator.cluster.queue import Queue
from concertina_operator.cluster.refusals import Refusals
from concertina_operator.cluster.store import Key
from tests.concertina_operator.factories import a_job, a_pod, at

JOB = Key("ml", "tiny-lm")
POD = Key("ml", "tiny-lm-0")


def a_document(version, **metadata):
    """The job as a watch tells of it."""
    known = {"namespace": "ml", "name": "tiny-lm", "uid": "job-uid", "generation": 1}
    return {"metadata": {**known, "resourceVersion": str(version), **metadata}}


def an_owned_pod(**facts):
    return OwnedPod(job=JOB, owner="job-uid", facts=a_pod(**facts))


def woken(*changes):
    """Which keys wait in the queue after the last of the changes alone."""

    async def test():
        watched = Watched(Queue())
        for change in changes:
            while len(watched.queue):
                watched.queue.done(await watched.queue.take())
            change(watched)
        return [await watched.queue.take() for _ in range(len(watched.queue))]

    return asyncio.run(test())


def created(watched):
    watched.job_event("ADDED", a_document(1))


def pod_came(watched):
    watched.pods.put(POD, an_owned_pod(), version=1)
    watched.pod_changed(POD, an_owned_pod())


def pod_went(watched):
    watched.pods.remove(POD)
    watched.pod_changed(POD, an_owned_pod())


def node_says(*taints, node="gpu-7"):
    def change(watched):
        version = 1 + watched.nodes.newest
        watched.nodes.put(Key("", node), taints, version=version)
        watched.node_changed(Key("", node), taints)

    return change


def node_went(watched):
    gone = watched.nodes.remove(Key("", "gpu-7"))
    watched.node_changed(Key("", "gpu-7"), gone)


def pod_runs_on_node(watched):
    watched.pods.put(POD, an_owned_pod(node="gpu-7"), version=1)
    watched.pod_changed(POD, an_owned_pod(node="gpu-7"))


def reported(watched):
    watched.report_changed(POD, HeardReport(report=None))


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        pytest.param([created], [JOB], id="a new job"),
        pytest.param([pod_runs_on_node, node_says("x")], [JOB], id="the node of a pod is to go"),
        pytest.param(
            [pod_runs_on_node, node_says("x"), node_says()], [JOB], id="that is taken back"
        ),
        pytest.param([pod_runs_on_node, node_says("x"), node_says("x")], [], id="it is said again"),
        pytest.param([pod_runs_on_node, node_says("x"), node_went], [JOB], id="the node is gone"),
        pytest.param([pod_runs_on_node, node_says()], [], id="a node of which nothing is said"),
        pytest.param(
            [pod_runs_on_node, node_says("x", node="gpu-8")], [], id="a node without a pod of ours"
        ),
        pytest.param(
            [created, lambda watched: watched.job_event("MODIFIED", a_document(2))],
            [],
            id="its status",
        ),
        pytest.param(
            [created, lambda watched: watched.job_event("MODIFIED", a_document(2, generation=2))],
            [JOB],
            id="its spec",
        ),
        pytest.param(
            [created, lambda watched: watched.job_event("MODIFIED", a_document(2, uid="new"))],
            [JOB],
            id="another job of that name",
        ),
        pytest.param(
            [created, lambda watched: watched.job_event("MODIFIED", a_document(1, generation=2))],
            [],
            id="old news",
        ),
        pytest.param(
            [created, lambda watched: watched.job_event("DELETED", a_document(2))],
            [JOB],
            id="its end",
        ),
        pytest.param([lambda watched: watched.job_gone(JOB)], [], id="the end of an unknown one"),
        pytest.param([created, pod_came], [JOB], id="a pod"),
        pytest.param([created, pod_came, pod_went], [JOB], id="the end of a pod"),
        pytest.param([created, pod_came, reported], [JOB], id="a report"),
        pytest.param([created, reported], [], id="a report of an unknown pod"),
    ],
)
def test_a_change_wakes_the_job_that_it_concerns(changes, want):
    assert woken(*changes) == want


@pytest.mark.parametrize(
    ("version", "want"),
    [
        pytest.param(9, [JOB], id="it is gone"),
        pytest.param(7, [], id="it was created after the list"),
    ],
)
def test_a_job_that_a_list_does_not_have_is_dropped_unless_it_is_newer(version, want):
    def listed(watched):
        watched.jobs_listed([], version=version)
        assert (watched.jobs.get(JOB) is None) is bool(want)

    def made(watched):
        watched.job_event("ADDED", a_document(8))

    assert woken(made, listed) == want


def test_an_answer_about_a_job_that_was_deleted_meanwhile_does_not_bring_it_back():
    async def test():
        watched = Watched(Queue())
        watched.job_answer(a_document(1))
        assert watched.jobs.get(JOB) is None

    asyncio.run(test())


def test_a_pod_that_was_created_after_all_takes_the_place_of_its_refusal():
    async def test():
        watched, refusals = Watched(Queue()), Refusals()
        refusals.note("job-uid", "tiny-lm-0", words="quota", is_taken=False, now=at(0))
        job = a_job()
        job = job.model_copy(
            update={"metadata": job.metadata.model_copy(update={"namespace": "ml"})}
        )
        seen = watched.observe(job, refused=refusals.of("job-uid"), now=at(0)).pods
        assert [pod.message for pod in seen] == ["tiny-lm-0: quota"]
        pod_came(watched)
        seen = watched.observe(job, refused=refusals.of("job-uid"), now=at(0)).pods
        assert [pod.uid for pod in seen] == ["uid-0"]

    asyncio.run(test())


def test_a_report_of_a_pod_that_only_carries_the_jobs_label_is_not_the_jobs():
    async def test():
        watched = Watched(Queue())
        foreign = OwnedPod(job=JOB, owner="somebody-else", facts=a_pod(name="other"))
        watched.pods.put(Key("ml", "other"), foreign, version=1)
        watched.pod_changed(Key("ml", "other"), foreign)
        pod_came(watched)
        for name in ("other", "tiny-lm-0"):
            heard = HeardReport(report=None, refusal=f"report of {name}: huge")
            watched.reports.put(Key("ml", name), heard, version=1)
        found = watched.reports_of(JOB, job_uid="job-uid")
        assert [heard.refusal for heard in found] == ["report of tiny-lm-0: huge"]

    asyncio.run(test())


def test_a_pod_that_reports_without_end_wakes_its_job_only_so_often():
    async def test():
        watched = Watched(Queue())
        pod_came(watched)
        woken = 0
        for _ in range(10 * REPORTS_BURST):
            reported(watched)
            while len(watched.queue):
                watched.queue.done(await watched.queue.take())
                woken += 1
        assert REPORTS_BURST <= woken < 2 * REPORTS_BURST
        async with asyncio.timeout(20):
            assert await watched.queue.take() == JOB, "the last report is not looked at"

    asyncio.run(test())


def test_the_age_of_a_job_and_its_pods_counts_from_when_this_process_has_seen_them():
    async def test():
        watched = Watched(Queue())
        job = a_job()
        metadata = job.metadata.model_copy(update={"namespace": "ml"})
        job = job.model_copy(update={"metadata": metadata})

        def seen(seconds):
            found = watched.observe(job, refused=(), now=at(seconds))
            return found.known_since, [pod.seen for pod in found.pods]

        def pod_there(uid):
            owned = an_owned_pod(uid=uid)
            watched.pods.put(POD, owned, version=len(uid))
            watched.pod_changed(POD, owned)

        pod_there("a")
        assert seen(5) == (at(5), [at(5)])
        assert seen(9) == (at(5), [at(5)])
        pod_there("bb")
        assert seen(12) == (at(5), [at(12)])
        watched.pods.remove(POD)
        watched.pod_changed(POD, an_owned_pod())
        pod_there("ccc")
        assert seen(20) == (at(5), [at(20)])

    asyncio.run(test())
