"""What Kubernetes brings along works on jobs: waiting, and budgets that hold evictions back."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from concertina_operator.cluster.pod import JOB_LABEL
from tests.cluster.api import ApiFailure, wait_for
from tests.cluster.fake_nodes import fake_nodes
from tests.concertina_operator.cluster.installed import GROUP
from tests.concertina_operator.cluster.jobs import a_job
from tests.concertina_operator.cluster.trainers import a_trained_job


def a_ready_pod(api, namespace, job, number):
    """A pod of the job that seems to run."""
    owner = {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
        "controller": True,
    }
    pods = f"/api/v1/namespaces/{namespace}/pods"
    name = f"{owner['name']}-{number}"
    labels = {JOB_LABEL: owner["name"]}
    api.create(
        pods,
        {
            "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
            "spec": {"containers": [{"name": "trainer", "image": "imagined"}]},
        },
    )
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    api.patch(f"{pods}/{name}/status", {"status": ready})
    return f"{pods}/{name}"


def evict(api, pod):
    name = pod.rpartition("/")[2]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    api.create(f"{pod}/eviction", eviction)


def test_a_budget_of_whole_pods_holds_evictions_back(api, namespace):
    job = api.create(f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs", a_job())
    first, second = (a_ready_pod(api, namespace, job, number) for number in range(2))
    budgets = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    selector = {"matchLabels": {JOB_LABEL: "tiny-lm"}}
    api.create(
        budgets,
        {"metadata": {"name": "keep-one"}, "spec": {"minAvailable": 1, "selector": selector}},
    )

    def allows(number):
        return lambda found: found.get("status", {}).get("disruptionsAllowed") == number

    api.wait(f"{budgets}/keep-one", allows(1), "the budget does not see the pods")
    evict(api, first)
    api.wait_gone(first)
    api.wait(f"{budgets}/keep-one", allows(0), "the budget does not see the eviction")
    with pytest.raises(ApiFailure, match="disruption budget") as caught:
        evict(api, second)

    assert caught.value.status == 429


def test_kubectl_waits_for_the_end_of_a_job(resources, api, namespace):
    path = f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs"
    api.create(path, a_job())
    condition = {"type": "Completed", "status": "True", "reason": "Finished"}
    wait = ("wait", "atj/tiny-lm", "--for=condition=Completed", "-n", namespace)
    assert resources.run_kubectl(*wait, "--timeout=0", check=False).returncode
    api.patch(f"{path}/tiny-lm/status", {"status": {"conditions": [condition]}})

    assert "condition met" in resources.run_kubectl(*wait, "--timeout=60s").stdout


def test_kubectl_waits_for_a_job_that_an_operator_completes(resources, trainers):
    name = trainers.job
    trainers.create(a_trained_job(name))
    trainers.until_trained_by(f"{name}-0")
    wait = ("wait", f"atj/{name}", "--for=condition=Completed", "-n", trainers.namespace)
    with ThreadPoolExecutor(max_workers=1) as pool:
        waited = pool.submit(resources.run_kubectl, *wait, "--timeout=60s")
        trainers.imagined.finish()
        trainers.until(waited.done, "kubectl does not see the end")
    assert "condition met" in waited.result().stdout


def test_an_autoscaler_lets_a_job_have_the_pods_that_it_asks_for(trainers, api):
    name = trainers.job
    trainers.create(a_trained_job(name, pods=a_trained_job()["spec"]["pods"] | {"max": 1}))
    trainers.imagined.ask(64)
    trainers.until(
        lambda: trainers.condition("RequestSatisfied").get("reason") == "AtMaximum",
        "it is not told that the ceiling is in its way",
    )
    trainers.until_trained_by(f"{name}-0")
    target = {"apiVersion": "concertina.dev/v1alpha1", "kind": "AdaptiveTrainingJob", "name": name}
    bounds = {"minReplicas": 2, "maxReplicas": 4}  # the floor is obeyed without any metric
    autoscalers = f"/apis/autoscaling/v2/namespaces/{trainers.namespace}/horizontalpodautoscalers"
    api.create(
        autoscalers, {"metadata": {"name": name}, "spec": {"scaleTargetRef": target, **bounds}}
    )
    trainers.until_trained_by(f"{name}-0", f"{name}-1")
    assert trainers.find()["spec"]["pods"]["max"] == 2
    api.delete(f"{autoscalers}/{name}")


def test_an_operator_replaces_what_a_budget_lets_go_and_keeps_what_it_holds(trainers, api):
    name = trainers.job
    budget = f"/apis/policy/v1/namespaces/{trainers.namespace}/poddisruptionbudgets"
    selector = {"matchLabels": {JOB_LABEL: name}}
    with fake_nodes(api, 1, prefix="budget") as (node,):
        containers = [{"name": "trainer", "image": "x"}]
        template = {"spec": {"nodeName": node, "containers": containers}}
        trainers.create(a_trained_job(name, pods={"min": 2, "max": 2, "template": template}))
        spec = {"minAvailable": 2, "selector": selector}
        api.create(budget, {"metadata": {"name": name}, "spec": spec})

        def healthy(allowed):
            want = {"currentHealthy": 2, "disruptionsAllowed": allowed}
            return lambda found: want.items() <= found.get("status", {}).items()

        api.wait(f"{budget}/{name}", healthy(0), "the budget does not see two ready pods")
        pod = f"/api/v1/namespaces/{trainers.namespace}/pods/{name}-0"
        before = api.get(pod)["metadata"]["uid"]
        with pytest.raises(ApiFailure, match="disruption budget") as caught:
            evict(api, pod)
        assert caught.value.status == 429

        api.patch(f"{budget}/{name}", {"spec": {"minAvailable": 1}})
        api.wait(f"{budget}/{name}", healthy(1), "nothing may go")
        evict(api, pod)

        def replaced():
            uids = [found["metadata"]["uid"] for found in trainers.pods().values()]
            return before not in uids and len(uids) == 2

        wait_for(replaced, lambda: f"{list(trainers.pods())} are there")
        api.wait(f"{budget}/{name}", healthy(1), "the new pod is not counted")
    api.delete(f"{budget}/{name}")
