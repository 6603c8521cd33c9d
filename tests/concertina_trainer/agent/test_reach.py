import socket
from contextlib import contextmanager
from itertools import cycle, repeat

import pytest

from concertina_api.v1alpha1 import Member, Membership, PodPhase
from concertina_trainer.agent.reach import MISSES, Reach, answers, peers
from tests.concertina_trainer.agent.pods import wait_for


def member(number, port=9):
    return Member(
        pod=f"tiny-{number}", uid=f"u{number}", incarnation="a", host="127.0.0.1", port=port
    )


def membership(size, number=1, **fields):
    return Membership(round=number, members=tuple(map(member, range(size))), **fields)


@pytest.mark.parametrize(
    ("size", "me", "phase", "want_pods"),
    [
        pytest.param(3, 0, PodPhase.TRAINING, [1], id="the next while training"),
        pytest.param(3, 2, PodPhase.TRAINING, [0], id="the last dials the first"),
        pytest.param(3, 1, PodPhase.WAITING, [2, 0], id="all while waiting"),
        pytest.param(1, 0, PodPhase.TRAINING, [], id="alone"),
        pytest.param(3, 5, PodPhase.WAITING, [], id="not a member"),
        pytest.param(3, 0, PodPhase.WARM, [], id="not trained yet"),
        pytest.param(3, 0, PodPhase.FINISHED, [], id="done"),
        pytest.param(100, 90, PodPhase.WAITING, [*range(91, 100), *range(55)], id="at most 64"),
    ],
)
def test_a_pod_dials_whom_it_needs(size, me, phase, want_pods):
    found = peers(membership(size), uid=f"u{me}", phase=phase)

    assert [peer.pod for peer in found] == [f"tiny-{number}" for number in want_pods]


def test_nobody_is_dialled_before_the_first_membership():
    assert peers(None, uid="u0", phase=PodPhase.WAITING) == ()


class Network:
    """Who does not answer, and how often each was dialled."""

    def __init__(self):
        self.dead = set()
        self.pattern = repeat(True)
        """Whether a pod that is not dead answers, call by call."""
        self.calls = {}

    def answers(self, peer):
        self.calls[peer.pod] = self.calls.get(peer.pod, 0) + 1
        return next(self.pattern) and peer.pod not in self.dead

    def until_dialled(self, pod, times):
        goal = self.calls.get(pod, 0) + times
        wait_for(lambda: self.calls.get(pod, 0) >= goal, lambda: f"{pod}: {self.calls}")


@contextmanager
def dialling(network):
    reach = Reach(answers=network.answers, training_seconds=0.02, waiting_seconds=0.01)
    try:
        yield reach
    finally:
        reach.close()


def test_who_does_not_answer_several_times_in_a_row_is_a_suspect_until_it_does():
    network = Network()
    with dialling(network) as reach:
        reach.look(membership(3), uid="u0", phase=PodPhase.TRAINING)
        network.until_dialled("tiny-1", MISSES + 1)
        assert reach.suspects == ()
        assert "tiny-2" not in network.calls

        network.dead = {"tiny-1", "tiny-2"}
        wait_for(lambda: reach.suspects == ("tiny-1",), lambda: f"suspects {reach.suspects}")
        reach.look(membership(3), uid="u0", phase=PodPhase.WAITING)
        wait_for(lambda: reach.suspects == ("tiny-1", "tiny-2"), lambda: f"{reach.suspects}")

        network.dead = {"tiny-2"}
        wait_for(lambda: reach.suspects == ("tiny-2",), lambda: f"{reach.suspects}")
        reach.look(membership(3), uid="u0", phase=PodPhase.LEFT)
        assert reach.suspects == ()


def test_now_and_then_a_miss_is_no_suspicion():
    network = Network()
    network.pattern = cycle([False] * (MISSES - 1) + [True])
    with dialling(network) as reach:
        reach.look(membership(2), uid="u0", phase=PodPhase.TRAINING)
        for _ in range(5 * MISSES):
            network.until_dialled("tiny-1", 1)
            assert reach.suspects == ()


def test_a_peer_at_a_new_address_is_dialled_anew():
    network = Network()
    with dialling(network) as reach:
        network.dead = {"tiny-1"}
        reach.look(membership(2), uid="u0", phase=PodPhase.WAITING)
        wait_for(lambda: reach.suspects, lambda: "a suspect")

        moved = Membership(round=2, members=(member(0), member(1, port=10)))
        network.dead = set()
        reach.look(moved, uid="u0", phase=PodPhase.WAITING)

        assert reach.suspects == ()


def test_the_kernel_answers_for_a_busy_agent_and_nobody_for_one_that_is_gone():
    with socket.create_server(("127.0.0.1", 0)) as server:  # which accepts nothing
        port = server.getsockname()[1]
        assert answers(member(1, port=port))
    assert not answers(member(1, port=port))
