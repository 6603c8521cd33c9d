import os
import signal
import socket
import threading
from contextlib import contextmanager
from itertools import cycle, repeat
from multiprocessing import Pipe
from pathlib import Path

import pytest

from concertina_api.v1alpha1 import Member, Membership, PodPhase
from concertina_trainer.agent.reach import DOUBT_SECONDS, MISSES, Reach, answers, peers
from tests.concertina_trainer.agent.pods import wait_for
from tests.worlds import spawn


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
    reach = Reach(answers=network.answers, call_seconds=0.01)
    try:
        yield reach
    finally:
        reach.close()


def test_who_does_not_answer_several_times_in_a_row_is_a_suspect_until_it_does():
    network = Network()
    with dialling(network) as reach:
        reach.look(membership(3), uid="u0", phase=PodPhase.TRAINING, now=0)
        network.until_dialled("tiny-1", MISSES + 1)
        assert reach.suspects == ()
        assert "tiny-2" not in network.calls

        network.dead = {"tiny-1", "tiny-2"}
        wait_for(lambda: reach.suspects == ("tiny-1",), lambda: f"suspects {reach.suspects}")
        reach.look(membership(3), uid="u0", phase=PodPhase.WAITING, now=0)
        wait_for(lambda: reach.suspects == ("tiny-1", "tiny-2"), lambda: f"{reach.suspects}")

        network.dead = {"tiny-2"}
        wait_for(lambda: reach.suspects == ("tiny-2",), lambda: f"{reach.suspects}")
        reach.look(membership(3), uid="u0", phase=PodPhase.LEFT, now=0)
        assert reach.suspects == ()


def test_now_and_then_a_miss_is_no_suspicion():
    network = Network()
    network.pattern = cycle([False] * (MISSES - 1) + [True])
    with dialling(network) as reach:
        reach.look(membership(2), uid="u0", phase=PodPhase.TRAINING, now=0)
        for _ in range(5 * MISSES):
            network.until_dialled("tiny-1", 1)
            assert reach.suspects == ()


def test_a_peer_at_a_new_address_is_dialled_anew():
    network = Network()
    with dialling(network) as reach:
        network.dead = {"tiny-1"}
        reach.look(membership(2), uid="u0", phase=PodPhase.WAITING, now=0)
        wait_for(lambda: reach.suspects, lambda: "a suspect")

        moved = Membership(round=2, members=(member(0), member(1, port=10)))
        network.dead = set()
        reach.look(moved, uid="u0", phase=PodPhase.WAITING, now=0)

        assert reach.suspects == ()


def test_after_a_probe_all_are_dialled_for_a_while_and_the_next_round_is_not_in_doubt():
    network = Network()

    def dialled(now, **fields):
        reach.look(membership(3, **fields), uid="u0", phase=PodPhase.TRAINING, now=now)
        return [peer.pod for peer in reach.peers]

    with dialling(network) as reach:
        assert dialled(0, probe=4) == ["tiny-1"]
        assert dialled(1, probe=5) == ["tiny-1", "tiny-2"]
        assert dialled(1 + DOUBT_SECONDS / 2, probe=5) == ["tiny-1", "tiny-2"]
        assert dialled(1 + DOUBT_SECONDS, probe=5) == ["tiny-1"]
        assert dialled(100, probe=6) == ["tiny-1", "tiny-2"]
        assert dialled(101, number=2, probe=7) == ["tiny-1"]


def test_an_agent_answers_by_its_store_and_a_stopped_one_does_not(capfd):
    calls, port = Pipe()
    agent = spawn(serve_store, port)
    try:
        address = member(1, port=calls.recv())
        capfd.readouterr()  # what its start has printed
        descriptors = num_descriptors()

        def answer():
            return answers(address, within_seconds=0.2)

        wait_for(answer, lambda: "an answer")  # on a busy machine not every time
        os.kill(agent.pid, signal.SIGSTOP)
        assert not answer()
        os.kill(agent.pid, signal.SIGCONT)
        wait_for(answer, lambda: "an answer again")
        assert num_descriptors() == descriptors
    finally:
        agent.kill()
        agent.join()
    assert not answer()
    assert capfd.readouterr().err == ""


def num_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def serve_store(port):
    """Body of a process that serves a store as an agent does, until it is killed."""
    from concertina_trainer.agent.agent import bind_store

    store = bind_store()
    port.send(store.port)
    signal.pause()


def test_a_connection_that_is_taken_and_not_served_is_no_answer():
    with socket.create_server(("127.0.0.1", 0)) as server:  # which accepts nothing
        address = member(1, port=server.getsockname()[1])
        assert not answers(address, within_seconds=0.1)
    assert not answers(address)


def test_a_process_that_ends_the_connection_is_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        hangs_up = threading.Thread(target=lambda: server.accept()[0].close())
        hangs_up.start()
        assert answers(member(1, port=server.getsockname()[1]), within_seconds=30)
        hangs_up.join()
