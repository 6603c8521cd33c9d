"""What each fault is on a real node. Entering a fault applies it, leaving undoes it."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from concertina_operator.cluster import paths
from tests.chaos.arena import Missed
from tests.chaos.faults_anywhere import fault_anywhere
from tests.chaos.faults_processes import stopped
from tests.chaos.kubelet import UNREACHABLE, KubeletArena
from tests.chaos.processes import Owned
from tests.chaos.schedule import Fault, Strike, chosen

NUMBERS = count()
"""Of tables of rules: one pod may be cut off twice at once."""
NOBODY = {"pod": "nobody-0", "uid": "0", "incarnation": "0", "host": "192.0.2.1", "port": 1}
MEMBERSHIPS: tuple[dict[str, Any], ...] = (
    {"members": []},
    {"members": [NOBODY]},
    {"members": [], "intent": "Suspend"},
    {"probe": 999},
    {"lost": [], "leaving": [NOBODY]},
)
"""What a membership can be overwritten with; the server takes nothing that is less valid."""
REPORTS: tuple[dict[str, Any], ...] = (
    {"phase": "Finished", "finished": True},
    {"phase": "Failed"},
    {"uid": "0"},
    {"progress": {"step": 10**9, "samples": 10**9, "globalBatchSize": 1, "worldSize": 64}},
    {"port": 1, "host": "192.0.2.1"},
)


def kubelet_fault(arena: KubeletArena, strike: Strike) -> AbstractContextManager[str]:
    """The fault of this strike, on whom it hits now.

    Raises Missed when there is nobody.
    """
    match strike.fault:
        case Fault.LEAVE:
            return asked(lambda: _evict(arena, strike))
        case Fault.DELETE_MEMBERSHIP | Fault.RUBBISH_MEMBERSHIP:
            return asked(lambda: _spoil(arena, strike, _membership(arena), MEMBERSHIPS))
        case Fault.DELETE_REPORT | Fault.RUBBISH_REPORT:
            return asked(lambda: _spoil(arena, strike, _report(arena, strike), REPORTS))
        case Fault.CUT_NETWORK:
            agent = arena.agent(strike)
            return cut(agent, address=arena.peer(agent).ip)
        case Fault.LOSE_NODE:
            return lost(arena.pod(strike))
        case Fault.STOP_API_SERVER:
            return arena.component_down("kube-apiserver")
        case Fault.RESTART_ETCD:
            return arena.component_down("etcd")
        case Fault.RESTART_RUNTIME:
            return arena.component_down("containerd")
    return fault_anywhere(arena, strike)


@contextmanager
def asked(ask: Callable[[], str]) -> Iterator[str]:
    """A request to the API server; one that is refused, or not answered, misses."""
    try:
        yield ask()
    except UNREACHABLE as error:
        raise Missed(str(error)) from error


@contextmanager
def cut(agent: Owned, *, address: str = "") -> Iterator[str]:
    """No packet goes between the agent's pod and this address; without one, to or from anybody."""
    table = f"inet chaos-{next(NUMBERS)}"
    rules = [f"add table {table}"]
    for hook, host, link in (("input", "saddr", "iifname"), ("output", "daddr", "oifname")):
        whom = f"ip {host} {address}" if address else f'{link} != "lo"'
        accept = f"{{ type filter hook {hook} priority 0; policy accept; }}"
        rules += [f"add chain {table} {hook} {accept}"]
        rules += [f"add rule {table} {hook} {whom} drop"]
    # A handle of the pod's network: it is the same one when the agent has ended.
    with Path(f"/proc/{agent.process.pid}/ns/net").open("rb") as network:
        _nft(network.fileno(), "; ".join(rules))
        try:
            yield f"{agent.pod} from {address or 'everybody'}"
        finally:
            _nft(network.fileno(), f"delete table {table}")


@contextmanager
def lost(processes: list[Owned]) -> Iterator[str]:
    """The pod's processes stop and its network is cut, as if its node had gone."""
    with ExitStack() as stack:
        who = stack.enter_context(cut(processes[0]))
        stack.enter_context(stopped(processes))
        yield who


def _nft(network: int, rules: str) -> None:
    enter = ("nsenter", f"--net=/proc/self/fd/{network}")
    subprocess.run([*enter, "nft", rules], check=True, capture_output=True, pass_fds=[network])


def _evict(arena: KubeletArena, strike: Strike) -> str:
    agent = arena.agent(strike)
    arena.run.evict(agent.pod)
    return agent.pod


def _membership(arena: KubeletArena) -> str:
    return paths.memberships(arena.run.namespace, arena.run.name)


def _report(arena: KubeletArena, strike: Strike) -> str:
    return paths.reports(arena.run.namespace, arena.agent(strike).pod)


def _spoil(
    arena: KubeletArena, strike: Strike, path: str, rubbish: tuple[dict[str, Any], ...]
) -> str:
    """Delete or overwrite the object."""
    if strike.fault in (Fault.DELETE_MEMBERSHIP, Fault.DELETE_REPORT):
        arena.run.api.delete(path)
        return path.rpartition("/")[2]
    spec = chosen(rubbish, target=strike.target)
    arena.run.api.patch(path, {"spec": spec})
    return f"{path.rpartition('/')[2]} {spec}"
