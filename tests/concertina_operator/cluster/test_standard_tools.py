"""What Kubernetes brings along works on jobs: waiting, and budgets that hold evictions back."""

import pytest

from concertina_operator.cluster.pod import JOB_LABEL
from tests.cluster.api import ApiFailure
from tests.concertina_operator.cluster.installed import GROUP
from tests.concertina_operator.cluster.jobs import a_job


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
