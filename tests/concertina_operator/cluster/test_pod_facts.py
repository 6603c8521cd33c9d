import pytest

from concertina_operator.cluster.pod_facts import MAX_ENDING, read_pod
from concertina_operator.cluster.store import Key
from concertina_operator.observed import Phase
from tests.concertina_operator.cluster.test_facts import a_pod


def ended(name, code, reason="", message=""):
    terminated = {"exitCode": code, "reason": reason, "message": message}
    return {"name": name, "state": {"terminated": terminated}}


def waiting(name, **state):
    return {"name": name, "state": {"waiting": state}}


@pytest.mark.parametrize(
    ("status", "want_phase", "want_code"),
    [
        pytest.param({}, Phase.PENDING, None, id="no status yet"),
        pytest.param({"phase": "Running"}, Phase.RUNNING, None, id="runs"),
        pytest.param(
            {"phase": "Running", "containerStatuses": [ended("trainer", 0)]},
            Phase.RUNNING,
            0,
            id="the trainer has ended, a sidecar has not",
        ),
        pytest.param(
            {"phase": "Running", "containerStatuses": [ended("sidecar", 1)]},
            Phase.RUNNING,
            None,
            id="a sidecar has ended",
        ),
        pytest.param(
            {"phase": "Failed", "containerStatuses": [ended("trainer", 137)]},
            Phase.FAILED,
            137,
            id="killed",
        ),
        pytest.param({"phase": "Failed", "reason": "Evicted"}, Phase.FAILED, None, id="evicted"),
        pytest.param({"phase": "Strange"}, Phase.UNKNOWN, None, id="a phase of the future"),
    ],
)
def test_the_outcome_of_a_pod_is_that_of_its_trainer(status, want_phase, want_code):
    facts = read_pod(a_pod(status=status)).facts
    assert (facts.phase, facts.exit_code) == (want_phase, want_code)


def test_a_trainer_that_was_killed_at_its_limit_is_out_of_memory():
    killed = {"phase": "Failed", "containerStatuses": [ended("trainer", 137, "OOMKilled")]}
    document = a_pod(status=killed)
    trainer = next(entry for entry in document["spec"]["containers"] if entry["name"] == "trainer")
    trainer["resources"] = {"limits": {"memory": "4Gi"}}
    facts = read_pod(document).facts
    assert facts.out_of_memory
    assert facts.ending == "OOMKilled; the limit of the container is 4Gi"
    other = {"phase": "Failed", "containerStatuses": [ended("trainer", 137, "Error")]}
    assert not read_pod(a_pod(status=other)).facts.out_of_memory


@pytest.mark.parametrize(
    ("status", "want_setup_failed", "want_ending"),
    [
        pytest.param({"containerStatuses": [ended("trainer", 1, "Error")]}, False, "", id="error"),
        pytest.param(
            {"containerStatuses": [ended("trainer", 137, "OOMKilled")]},
            False,
            "OOMKilled",
            id="out of memory",
        ),
        pytest.param(
            {"containerStatuses": [ended("trainer", 128, "StartError", "no python3 in $PATH\n")]},
            False,
            "StartError: no python3 in $PATH",
            id="the command is not there",
        ),
        pytest.param(
            {"reason": "UnexpectedAdmissionError", "message": "no GPU is healthy"},
            False,
            "UnexpectedAdmissionError: no GPU is healthy",
            id="the kubelet would not have it",
        ),
        pytest.param(
            {
                "initContainerStatuses": [ended("fetch", 6, "Error", "no such host")],
                "containerStatuses": [waiting("trainer", reason="PodInitializing")],
            },
            True,
            "init container fetch ended with code 6: no such host",
            id="an init container failed",
        ),
        pytest.param(
            {
                "initContainerStatuses": [ended("proxy", 143, "Error")],
                "containerStatuses": [ended("trainer", 1, "Error")],
            },
            False,
            "",
            id="a sidecar ended after the trainer",
        ),
        pytest.param(
            {"containerStatuses": [ended("trainer", 1, "Error", "x" * 4096)]},
            False,
            "x" * MAX_ENDING,
            id="a long story",
        ),
    ],
)
def test_says_why_a_pod_ended(status, want_setup_failed, want_ending):
    facts = read_pod(a_pod(status={"phase": "Failed"} | status)).facts
    assert (facts.setup_failed, facts.ending) == (want_setup_failed, want_ending)
    assert facts.ended


def test_a_pod_whose_end_is_the_platforms_doing_says_so():
    conditions = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]
    assert read_pod(a_pod(status={"phase": "Failed", "conditions": conditions})).facts.disrupted


def test_a_pod_has_its_addresses_once_they_are_given_out():
    assert read_pod(a_pod()).facts.addresses == ()
    pod = a_pod(status={"phase": "Running", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}]})
    assert read_pod(pod).facts.addresses == ("10.0.0.7", "fd00::7")


@pytest.mark.parametrize(
    ("granted", "pre_stop", "want"),
    [
        pytest.param(None, {}, None, id="nobody deletes it"),
        pytest.param(20, {}, 20, id="a short deletion"),
        pytest.param(120, {"sleep": {"seconds": 60}}, 60, id="it sleeps before its SIGTERM"),
        pytest.param(30, {"sleep": {"seconds": 60}}, 2, id="it sleeps too long"),
        pytest.param(1, {"sleep": {"seconds": 60}}, 1, id="no time at all"),
        pytest.param(30, {"exec": {"command": ["drain"]}}, 30, id="a hook of unknown length"),
    ],
)
def test_says_how_long_the_trainer_has_from_its_sigterm_on(granted, pre_stop, want):
    pod = a_pod(**({"deletionGracePeriodSeconds": granted} if granted else {}))
    pod["spec"]["containers"][1]["lifecycle"] = {"preStop": pre_stop}
    assert read_pod(pod).facts.grace_seconds == want


def test_a_pod_is_placed_once_it_has_a_node():
    pod = a_pod(status={"phase": "Pending"})
    assert not read_pod(pod).facts.placed
    pod["spec"]["nodeName"] = "node-1"
    assert read_pod(pod).facts.placed


def test_a_pod_is_found_by_the_only_container_when_nothing_names_the_trainer():
    pod = a_pod(annotations={}, status={"containerStatuses": [ended("main", 3)]})
    pod["spec"] = {"containers": [{"name": "main"}]}
    assert read_pod(pod).facts.exit_code == 3


@pytest.mark.parametrize(
    ("status", "want"),
    [
        pytest.param({"phase": "Running", "message": "fine"}, "", id="it runs"),
        pytest.param(
            {
                "phase": "Pending",
                "containerStatuses": [waiting("trainer", reason="ContainerCreating")],
            },
            "",
            id="it starts",
        ),
        pytest.param(
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "message": "0/1 nodes are available",
                    }
                ],
            },
            "tiny-lm-0: 0/1 nodes are available",
            id="no node",
        ),
        pytest.param(
            {
                "phase": "Pending",
                "containerStatuses": [
                    waiting("trainer", reason="ImagePullBackOff", message="no such image")
                ],
            },
            "tiny-lm-0: container trainer: no such image",
            id="no image",
        ),
        pytest.param(
            {"phase": "Failed", "message": "The node was low on memory"},
            "tiny-lm-0: The node was low on memory",
            id="evicted",
        ),
    ],
)
def test_says_in_the_servers_words_why_a_pod_does_not_run(status, want):
    assert read_pod(a_pod(status=status)).facts.message == want


@pytest.mark.parametrize(
    ("condition", "want"),
    [
        pytest.param(
            {"status": "True", "reason": "PreemptionByScheduler", "message": "a rival came"},
            "DisruptionTarget: PreemptionByScheduler: a rival came",
            id="about to be preempted",
        ),
        pytest.param({"status": "True"}, "DisruptionTarget", id="without a word"),
        pytest.param({"status": "False", "reason": "x"}, "", id="taken back"),
        pytest.param({"status": "True", "type": "Ready"}, "", id="another condition"),
    ],
)
def test_a_disruption_that_is_to_come_is_a_notice(condition, want):
    status = {"phase": "Running", "conditions": [{"type": "DisruptionTarget", **condition}]}
    facts = read_pod(a_pod(status=status)).facts
    assert facts.notice == want
    assert facts.disrupted == bool(want)


def test_a_pod_is_placed_on_its_node():
    assert (read_pod(a_pod()).facts.node, read_pod(a_pod()).facts.placed) == ("", False)
    document = a_pod()
    document["spec"]["nodeName"] = "gpu-7"
    placed = read_pod(document).facts
    assert (placed.node, placed.placed) == ("gpu-7", True)


def test_a_pod_belongs_to_the_job_that_controls_it_whatever_its_label_says():
    assert read_pod(a_pod(labels={"concertina.dev/job": "other"})).job == Key("ml", "tiny-lm")
    assert read_pod(a_pod(ownerReferences=[])).job == Key("ml", "tiny-lm")
