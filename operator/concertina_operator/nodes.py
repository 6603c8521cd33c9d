"""Decides which nodes the new pods of a job are kept off, and says so. Called by the courses.

Pure: no I/O, no clock. Nodes on which pods were lost again and again (offences.py) are avoided, and
so are those that a starting pod has to leave before it was in a round. It never comes to no node
being left: when a job finds no place to train at all in time, none is avoided any more. A job that
trains, and merely wants more pods than find a place, goes on without these nodes.
"""

from collections.abc import Collection, Iterable, Iterator

from concertina_api.v1alpha1 import Offences
from concertina_operator.actions import Event, EventType
from concertina_operator.departures import InForce
from concertina_operator.offences import MOST_AVOIDED, avoided, until
from concertina_operator.situation import Situation
from concertina_operator.sizing import smallest_size


def nodes_to_avoid(
    situation: Situation, known: Iterable[Offences], *, in_force: InForce
) -> tuple[str, ...]:
    """The nodes by name: offenders, and those that starting pods are to leave.

    A pod that tolerates the taint of a node would be placed there again, and again.
    """
    named = in_force.members | in_force.leaving
    left = {
        standing.pod.node
        for standing in situation.standings
        if standing.notice and standing.pod.node and standing.pod.uid not in named
    }
    return tuple(sorted({*_offenders(situation, known), *sorted(left)[:MOST_AVOIDED]}))


def is_cornered(situation: Situation, *, in_force: InForce, given_back: Collection[str]) -> bool:
    """Whether pods found no place in time to train at all: better the avoided nodes than none."""
    return len(in_force.members) < smallest_size(situation.spec.pods) and any(
        entry.pod.name in given_back and not entry.pod.placed for entry in situation.standings
    )


def avoidance_events(situation: Situation, known: tuple[Offences, ...]) -> Iterator[Event]:
    """Which nodes are avoided from now on."""
    earlier = _offenders(situation, situation.before.offences)
    by_node = {entry.node: entry for entry in known}
    for node in _offenders(situation, known):
        if node not in earlier:
            text = (
                f"{len(by_node[node].at)} losses on node {node} within an hour: new pods avoid it"
                f" until {until(by_node[node]):%Y-%m-%dT%H:%M:%SZ}"
            )
            yield Event(type=EventType.WARNING, reason="NodeAvoided", message=text)


def allowance_events(situation: Situation) -> Iterator[Event]:
    """Which nodes are avoided no more, when all are forgiven now."""
    if earlier := _offenders(situation, situation.before.offences):
        text = f"pods found no place without {', '.join(earlier)}: no node is avoided any more"
        yield Event(type=EventType.WARNING, reason="NodesAllowed", message=text)


def _offenders(situation: Situation, known: Iterable[Offences]) -> tuple[str, ...]:
    after = situation.spec.failure_policy.avoid_node_after
    return avoided(known, after=after, now=situation.now)
