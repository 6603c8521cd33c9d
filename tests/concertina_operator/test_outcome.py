import pytest

from concertina_api.v1alpha1 import PodPhase
from concertina_operator.acceptance import Standing
from concertina_operator.outcome import Ending, ending
from tests.concertina_operator.factories import a_member, a_membership, a_pod, a_standing

FINISHED = {"phase": PodPhase.FINISHED, "finished": True}
TRAINING = {"phase": PodPhase.TRAINING, "round": 1}
ENDED = {"exit_code": 0}


@pytest.mark.parametrize(
    ("standings", "want_ending"),
    [
        pytest.param(
            [a_standing(0, **TRAINING), a_standing(1, **TRAINING)], Ending.RUNNING, id="training"
        ),
        pytest.param(
            [a_standing(0, **FINISHED), a_standing(1, **FINISHED)],
            Ending.FINISHING,
            id="all reports are finished, all pods still exit",
        ),
        pytest.param(
            [a_standing(0, pod=ENDED, **FINISHED), a_standing(1, pod=ENDED, **FINISHED)],
            Ending.COMPLETED,
            id="all are finished and have ended with 0",
        ),
        pytest.param(
            [
                a_standing(0, pod=ENDED, **FINISHED),
                a_standing(1, pod={"exit_code": 143, "deleting": True}, **FINISHED),
            ],
            Ending.COMPLETED,
            id="one that is finished was told to end and did",
        ),
        pytest.param(
            [a_standing(0, pod=ENDED, **FINISHED), a_standing(1, phase=PodPhase.LEFT)],
            Ending.COMPLETED,
            id="one has left before the end",
        ),
        pytest.param(
            [a_standing(0, **FINISHED), a_standing(1, **TRAINING)],
            Ending.FINISHING,
            id="the leader is finished",
        ),
        pytest.param(
            [
                a_standing(0, pod=ENDED, **FINISHED),
                a_standing(1, pod={"exit_code": 143}, leaving=True),
            ],
            Ending.COMPLETED,
            id="the leader is finished and the other was told to end before it was warm again",
        ),
        pytest.param(
            [a_standing(0, pod=ENDED, **FINISHED), a_standing(1, pod=ENDED, **TRAINING)],
            Ending.COMPLETED,
            id="the leader is finished and the other ended with 0",
        ),
        pytest.param(
            [a_standing(0, pod=ENDED, **FINISHED)], Ending.COMPLETED, id="the other is gone"
        ),
        pytest.param(
            [a_standing(0, **TRAINING), a_standing(1, pod=ENDED, **FINISHED)],
            Ending.FINISHING,
            id="one that does not lead says that all is finished",
        ),
        pytest.param(
            [a_standing(0, **TRAINING), a_standing(1, pod=ENDED, **TRAINING)],
            Ending.RUNNING,
            id="one that does not lead has ended with 0, and has not said that it is finished",
        ),
        pytest.param(
            [
                a_standing(0, **TRAINING),
                a_standing(1, pod={"exit_code": 0, "deleting": True}, **TRAINING),
            ],
            Ending.RUNNING,
            id="one has ended well because it was told to end",
        ),
        pytest.param(
            [a_standing(0, phase=PodPhase.WAITING), a_standing(1, **FINISHED)],
            Ending.FINISHING,
            id="it says so, and the round of the leader is broken",
        ),
        pytest.param(
            [a_standing(0, **TRAINING), a_standing(1, **FINISHED, incarnation="i9")],
            Ending.RUNNING,
            id="it says so, but it was not in the round",
        ),
        pytest.param(
            [a_standing(0, **FINISHED), a_standing(1, pod={"exit_code": 1}, **TRAINING)],
            Ending.FINISHING,
            id="the leader is finished, the other failed",
        ),
        pytest.param(
            [a_standing(0, pod=ENDED, **FINISHED), a_standing(1, pod={"exit_code": 1}, **TRAINING)],
            Ending.COMPLETED,
            id="the leader is finished and has ended, the other failed",
        ),
        pytest.param(
            [a_standing(0, pod={"exit_code": 1}, **FINISHED), a_standing(1, pod=ENDED, **FINISHED)],
            Ending.RUNNING,
            id="the leader failed after all",
        ),
        pytest.param(
            [a_standing(0, phase=PodPhase.STARTING, incarnation="i9"), a_standing(1, **FINISHED)],
            Ending.RUNNING,
            id="the leader failed after all and is started anew",
        ),
        pytest.param(
            [a_standing(0, **TRAINING), a_standing(1, pod={"exit_code": 1}, **TRAINING)],
            Ending.RUNNING,
            id="the other failed",
        ),
        pytest.param(
            [
                a_standing(0, **FINISHED),
                a_standing(1, pod={"exit_code": 143, "deleting": True}, **TRAINING),
            ],
            Ending.FINISHING,
            id="the other was told to end and is not done",
        ),
        pytest.param(
            [Standing(pod=a_pod(0, exit_code=0)), Standing(pod=a_pod(1, exit_code=0))],
            Ending.RUNNING,
            id="all end with 0, and nobody has said that it is finished",
        ),
    ],
)
def test_a_job_ends_when_its_last_members_are_done(standings, want_ending):
    assert ending(a_membership(1, 0, 1), standings) is want_ending


def test_members_of_an_empty_last_round_are_those_that_leave_it():
    membership = a_membership(2, leaving=(a_member(0),), intent="Stop")
    assert ending(membership, [a_standing(0, **FINISHED)]) is Ending.FINISHING
    assert ending(membership, [a_standing(0, pod=ENDED, **FINISHED)]) is Ending.COMPLETED
    assert ending(membership, [a_standing(0, phase=PodPhase.LEFT)]) is Ending.RUNNING
    assert ending(None, []) is Ending.RUNNING
