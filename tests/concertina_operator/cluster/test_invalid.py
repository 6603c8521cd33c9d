"""What is said of a job whose spec breaks a rule that the API server does not know."""

import pytest

from concertina_api.v1alpha1 import Condition, ConditionType, JobStatus
from concertina_operator.cluster.invalid import invalid_status
from concertina_operator.observed import Phase
from tests.concertina_operator.factories import a_pod, at

READY = Condition(type=ConditionType.READY, status="True", reason="Training")
TRAINED = JobStatus(
    conditions=(READY,), state="Training", world_size=4, gpus=4, gpu_counted_at=at(0), round=7
)
ENDED = {"exit_code": 0, "phase": Phase.SUCCEEDED}


def invalid(pods, *, before=TRAINED, now=10, spec=None):
    spec = {"pods": {"workersPerPod": 2}} if spec is None else spec
    document = {"metadata": {"generation": 3}, "spec": spec}
    return invalid_status(document, before=before, message="it is wrong", pods=pods, now=at(now))


def test_the_rule_is_told_and_what_was_known_is_kept():
    status = invalid([])
    (ready,) = status.conditions
    assert (ready.status, ready.reason, ready.message) == ("False", "InvalidJob", "it is wrong")
    assert (status.state, status.observed_generation, status.round) == ("Invalid", 3, 7)


def test_gpus_are_counted_as_long_as_pods_hold_them():
    first = invalid([a_pod(0), a_pod(1)])
    assert (first.gpus, first.gpu_seconds, first.training_gpu_seconds) == (4, 40, 40)
    second = invalid([a_pod(0), a_pod(1, **ENDED)], before=first, now=20)
    assert (second.gpus, second.gpu_seconds, second.idle_gpu_seconds) == (2, 80, 40)
    third = invalid([], before=second, now=30)
    fourth = invalid([], before=third, now=1000)
    assert (fourth.gpus, fourth.gpu_seconds) == (0, 100)
    assert (fourth.training_gpu_seconds, fourth.idle_gpu_seconds) == (40, 60)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"pods": None}, id="no pods"),
        pytest.param({"pods": {}}, id="the default"),
        pytest.param({"pods": {"workersPerPod": "2"}}, id="words"),
        pytest.param({"pods": {"workersPerPod": 0}}, id="none"),
    ],
)
def test_a_pod_of_which_the_spec_does_not_say_has_one_worker(spec):
    assert invalid([a_pod(0)], spec=spec).gpus == 1
