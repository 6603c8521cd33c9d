"""The operator as a process, on a control plane, with trainers that the test moves."""

import pytest

from tests.concertina_operator.cluster.trainers import NODE, Trainers, a_trained_job


def test_a_job_gets_its_pods_grows_when_it_asks_and_completes(trainers):
    name = trainers.job
    job = trainers.create(a_trained_job(name))
    trainers.until_trained_by(f"{name}-0")
    first = trainers.pods()[f"{name}-0"]
    told = {entry["name"]: entry.get("value") for entry in first["spec"]["containers"][0]["env"]}
    assert told["CONCERTINA_LOG_FORMAT"] == "text"  # as the operator itself does
    trainers.imagined.ask(64)
    trainers.until_trained_by(f"{name}-0", f"{name}-1")

    uid = job["metadata"]["uid"]
    for found in (first, trainers.membership()):
        (owner,) = found["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (uid, True)
        assert "finalizers" not in found["metadata"]
    assert trainers.pods()[f"{name}-0"]["metadata"]["uid"] == first["metadata"]["uid"]
    metadata = trainers.find()["metadata"]
    assert "finalizers" not in metadata
    assert "annotations" not in metadata
    trainers.until(lambda: trainers.holds("RequestSatisfied"), "not satisfied")
    assert trainers.holds("TemplateValid")
    assert trainers.holds("CheckpointDurable", "False")
    assert trainers.status()["observedGeneration"] == 1
    assert trainers.status()["selector"] == f"concertina.dev/job={name}"

    trainers.imagined.finish()
    trainers.until(lambda: trainers.holds("Completed"), "not completed")
    want = ["Starting", "PodsCreated", "RoundPublished", "RequestAccepted", "ScalingUp", "Resized"]
    trainers.until(lambda: set(want) <= set(trainers.events()), "events are missing")
    assert "Completed" in trainers.events()


def test_a_deleted_pod_is_replaced_and_leaves_in_order(trainers, api, served):
    name = trainers.job
    trainers.create(a_trained_job(name))
    trainers.imagined.ask(64)
    trainers.until_trained_by(f"{name}-0", f"{name}-1")
    leader = trainers.pods()[f"{name}-0"]["metadata"]["uid"]
    api.delete(f"/api/v1/namespaces/{served}/pods/{name}-0")

    def replaced():
        pods = trainers.pods()
        uids = [pod["metadata"]["uid"] for pod in pods.values()]
        return (
            leader not in uids and trainers.imagined.trains and len(trainers.imagined.members) == 2
        )

    trainers.until(replaced, "not replaced")
    assert trainers.status()["failures"]["count"] == 0
    assert trainers.holds("Failed", "False")


def test_a_suspended_job_gives_all_pods_back_and_goes_on_when_resumed(trainers):
    name = trainers.job
    trainers.create(a_trained_job(name))
    trainers.until_trained_by(f"{name}-0")
    trainers.edit(suspend=True)
    trainers.until(
        lambda: (
            trainers.condition("Suspended").get("reason") == "Suspended" and not trainers.pods()
        ),
        "not suspended",
    )
    assert trainers.membership()["spec"]["intent"] == "Suspend"
    trainers.edit(suspend=False)
    trainers.until_trained_by(f"{name}-0")
    assert trainers.holds("Suspended", "False")


def test_deleting_a_job_leaves_nothing_behind(trainers, api):
    name = trainers.job
    trainers.create(a_trained_job(name))
    trainers.until_trained_by(f"{name}-0")
    api.delete(f"{trainers.group}/adaptivetrainingjobs/{name}")

    def gone():
        reports = api.list(f"{trainers.group}/trainingreports")
        left = [report for report in reports if report["metadata"]["name"].startswith(name)]
        return not (trainers.pods() or trainers.membership() or left)

    trainers.until(gone, "something is left")


def test_a_bad_template_is_told_in_the_servers_words_and_can_be_mended(trainers):
    name = trainers.job
    document = a_trained_job(name)
    (container,) = document["spec"]["pods"]["template"]["spec"]["containers"]
    container["imagee"] = container.pop("image")
    trainers.create(document)
    trainers.until(lambda: trainers.holds("TemplateValid", "False"), "the template is accepted")
    assert (
        'unknown field "spec.containers[0].imagee"'
        in trainers.condition("TemplateValid")["message"]
    )
    assert trainers.pods() == {}
    trainers.until(lambda: "TemplateInvalid" in trainers.events(), "no event")
    assert "PodsCreated" not in trainers.events()
    trainers.edit(pods=a_trained_job(name)["spec"]["pods"])
    trainers.until_trained_by(f"{name}-0")
    assert trainers.holds("TemplateValid")


def test_a_refused_pod_is_pending_in_the_servers_words_and_created_when_it_may_be(
    trainers, api, served
):
    quotas = f"/api/v1/namespaces/{served}/resourcequotas"
    api.create(quotas, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}})
    api.wait(f"{quotas}/none", lambda quota: quota.get("status", {}).get("hard"), "no quota")
    try:
        name = trainers.job
        trainers.create(a_trained_job(name))
        trainers.until(
            lambda: "exceeded quota" in trainers.condition("PodsReady").get("message", ""),
            "no word of the quota",
        )
        trainers.until(lambda: "PodRefused" in trainers.events(), "no event")
        assert "PodsCreated" not in trainers.events()
    finally:
        api.delete(f"{quotas}/none")
    trainers.until_trained_by(f"{name}-0")


def test_a_pod_of_somebody_else_is_never_adopted(trainers, api, served):
    name = trainers.job
    pods = f"/api/v1/namespaces/{served}/pods"
    spec = {"nodeName": NODE, "containers": [{"name": "main", "image": "x"}]}
    foreign = api.create(pods, {"metadata": {"name": f"{name}-0"}, "spec": spec})
    trainers.create(a_trained_job(name))
    trainers.until(lambda: trainers.holds("NameTaken"), "the name is not taken")
    assert f"pod {name}-0" in trainers.condition("NameTaken")["message"]
    found = api.get(f"{pods}/{name}-0")["metadata"]
    assert found["uid"] == foreign["metadata"]["uid"]
    assert "ownerReferences" not in found
    api.delete(f"{pods}/{name}-0", gracePeriodSeconds=0)
    trainers.until_trained_by(f"{name}-0")
    trainers.until(lambda: trainers.holds("NameTaken", "False"), "the name is still taken")


def test_a_membership_of_somebody_else_is_never_overwritten(trainers, api):
    name = trainers.job
    path = f"{trainers.group}/trainingmemberships"
    kind = {"apiVersion": "concertina.dev/v1alpha1", "kind": "TrainingMembership"}
    api.create(path, kind | {"metadata": {"name": name}, "spec": {"round": 7}})
    trainers.create(a_trained_job(name))
    trainers.until(lambda: trainers.holds("NameTaken"), "the name is not taken")
    found = trainers.membership()["spec"]
    assert found["round"] == 7
    assert not found.get("members")
    api.delete(f"{path}/{name}")
    trainers.until_trained_by(f"{name}-0")


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"managedBy": "kueue.x-k8s.io/multikueue"}, id="managed-by-another"),
        pytest.param({"scaling": {"mode": "Off"}}, id="off"),
        pytest.param({"scaling": {"mode": "Recommend"}}, id="recommend"),
    ],
)
def test_writes_no_pod_and_no_membership_for_a_job_that_is_not_to_be_acted_on(trainers, spec, api):
    trainers.create(a_trained_job(trainers.job, **spec))
    # A job that was created later has been served: this one was looked at before.
    later = Trainers(api=api, namespace=trainers.namespace, job=f"{trainers.job}-later")
    later.create(a_trained_job(later.job))
    later.until(lambda: later.pods(), "the later job is not served")
    try:
        assert trainers.pods() == {}
        assert trainers.membership() is None
        if spec.get("scaling", {}).get("mode") == "Recommend":
            trainers.until(lambda: "Recommended" in trainers.events(), "nothing is recommended")
        else:
            assert trainers.status() == {}
    finally:
        api.delete(f"{trainers.group}/adaptivetrainingjobs/{later.job}")


def test_a_job_whose_time_is_over_fails_and_is_deleted_when_it_expires(trainers, api):
    name = trainers.job
    trainers.create(a_trained_job(name, activeDeadlineSeconds=2, ttlSecondsAfterFinished=1))
    seen = set()

    def expired():
        seen.add(trainers.condition("Failed").get("reason"))
        return not trainers.find()

    trainers.until(expired, "the job is still there")
    assert "DeadlineExceeded" in seen
    trainers.until(lambda: not trainers.pods(), "pods are left")


def test_an_absurd_request_is_refused_and_the_job_goes_on(trainers):
    name = trainers.job
    trainers.create(a_trained_job(name))
    trainers.until_trained_by(f"{name}-0")
    trainers.imagined.ask(4096)
    trainers.until(lambda: "ReportRefused" in trainers.events(), "not refused")
    assert trainers.status()["batch"]["effective"] == 32
    trainers.imagined.ask(64)
    trainers.until_trained_by(f"{name}-0", f"{name}-1")


def test_conditions_say_of_which_generation_they_speak(trainers):
    name = trainers.job
    trainers.create(a_trained_job(name))
    trainers.until_trained_by(f"{name}-0")
    trainers.edit(activeDeadlineSeconds=3600)
    trainers.until(lambda: trainers.status()["observedGeneration"] == 2, "not observed")
    told = {entry["type"]: entry["observedGeneration"] for entry in trainers.status()["conditions"]}
    assert set(told.values()) == {2}


def test_a_running_job_that_only_wants_advice_keeps_its_pods_and_its_round(trainers):
    name = trainers.job
    trainers.create(a_trained_job(name))
    trainers.until_trained_by(f"{name}-0")
    trainers.edit(scaling={"mode": "Recommend"})
    trainers.until(lambda: trainers.status()["state"] == "Recommend", "it still acts")
    before = trainers.membership()["metadata"]["resourceVersion"]
    trainers.imagined.ask(64)
    trainers.until(lambda: "Recommended" in trainers.events(), "nothing is recommended")
    assert list(trainers.pods()) == [f"{name}-0"]
    assert trainers.membership()["metadata"]["resourceVersion"] == before
    trainers.edit(scaling={"mode": "Auto"})
    trainers.until_trained_by(f"{name}-0", f"{name}-1")
