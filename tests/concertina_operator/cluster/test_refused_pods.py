"""Pods that quota or admission will not have yet: the rest trains, and they come when they may."""

import pytest

from tests.cluster.api import ApiFailure, wait_for
from tests.concertina_operator.cluster.processes import ShellThread
from tests.concertina_operator.cluster.trainers import Trainers, a_trained_job, prepare_node

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
WORDS = "only on Sundays"


@pytest.fixture
def trainers(resources, api, namespace, monkeypatch):
    """The trainers of a job in a namespace with an operator of its own."""
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(resources.kubeconfig))
    prepare_node(api)
    with ShellThread(namespace):
        yield Trainers(api=api, namespace=namespace)


def test_a_job_trains_on_the_pods_of_its_quota_and_grows_when_that_is_raised(trainers, api):
    quotas = f"/api/v1/namespaces/{trainers.namespace}/resourcequotas"
    api.create(quotas, {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}})
    api.wait(f"{quotas}/few", lambda quota: quota.get("status", {}).get("hard"), "no quota")
    trainers.create(a_trained_job())
    trainers.until_trained_by("tiny-lm-0")
    trainers.imagined.ask(64)

    def is_told():
        return "exceeded quota: few" in trainers.condition("PodsReady").get("message", "")

    trainers.until(is_told, "no word of the quota")
    assert trainers.status()["state"] == "Training"
    assert trainers.holds("Ready")
    assert trainers.condition("RequestSatisfied")["reason"] == "WaitingForPods"
    api.patch(f"{quotas}/few", {"spec": {"hard": {"pods": "2"}}})
    trainers.until_trained_by("tiny-lm-0", "tiny-lm-1")
    assert list(trainers.pods()) == ["tiny-lm-0", "tiny-lm-1"]
    trainers.until(lambda: not is_told(), "the quota is still told of")


@pytest.fixture
def refused(api, namespace):
    """The path of a binding by which admission refuses all pods of the namespace."""
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}]
    rules[0]["resources"] = ["pods"]
    policy = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": rules},
        "validations": [{"expression": "false", "message": WORDS}],
    }
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    binding = {
        "policyName": namespace,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": selector},
    }
    policies = f"{ADMISSION}/validatingadmissionpolicies"
    bindings = f"{ADMISSION}/validatingadmissionpolicybindings"
    api.create(policies, {"metadata": {"name": namespace}, "spec": policy})
    api.create(bindings, {"metadata": {"name": namespace}, "spec": binding})
    yield f"{bindings}/{namespace}"
    api.delete(f"{bindings}/{namespace}")
    api.delete(f"{policies}/{namespace}")


def is_refused(api, namespace):
    """Whether admission refuses a pod by now: the server learns of policies by watching."""
    pod = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "a", "image": "x"}]}}
    try:
        api.create(f"/api/v1/namespaces/{namespace}/pods", pod, dryRun="All")
    except ApiFailure as failure:
        return WORDS in failure.message
    return False


def test_a_pod_that_admission_refuses_is_pending_in_its_words_and_comes_when_it_may(
    trainers, api, refused
):
    wait_for(lambda: is_refused(api, trainers.namespace), lambda: "admission refuses nothing")
    trainers.create(a_trained_job())

    def is_told():
        return WORDS in trainers.condition("PodsReady").get("message", "")

    trainers.until(is_told, "no word of admission")
    assert not trainers.holds("TemplateValid", "False"), "nothing is wrong with the template"
    trainers.until(lambda: "PodRefused" in trainers.events(), "no event")
    api.delete(refused)
    trainers.until_trained_by("tiny-lm-0")
