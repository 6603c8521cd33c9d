"""Counts the losses of pods by node, and says which nodes offend too often.

Called by running.py; situation.py forgets with it what is over. Pure: no I/O, no clock. A loss is an
offence of its node when neither the job's code nor an order had ended the pod: the operator had to
exclude it, Kubernetes or its node ended it, or its trainer gave up for a device or a link that is
broken. What trainers on several nodes give up for at once is shared by them (a storage), and no
node's offence. Of what was not seen (a pod that is gone, without a word) no node is known. Pods of
one node that are lost together are one offence: one node fell over.
"""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Final

from concertina_api.v1alpha1 import Offences
from concertina_operator.acceptance import Standing
from concertina_operator.causes import is_broken_by_infrastructure
from concertina_operator.observed import Phase

WINDOW: Final = timedelta(hours=1)
"""Offences count together within it, and a node is avoided as long after the last of them."""
MOST_AVOIDED: Final = 16
"""Nodes that pods are kept off at once: the newest offenders."""
_MOST_NODES: Final = 64
_MOST_PER_NODE: Final = 100
_MOST_PODS: Final = 32


def offences(
    before: Iterable[Offences],
    standings: Iterable[Standing],
    *,
    excluded: Collection[str],
    now: datetime,
) -> tuple[Offences, ...]:
    """The offences of the last hour, with those that are seen now; the newest offender last.

    `excluded` are the uids of pods that an arbitration takes out of the round now.
    """
    known, present = tuple(before), tuple(standings)
    counted = {uid for entry in known for uid in entry.uids}
    broken = _broken(present)
    new: dict[str, list[str]] = {}
    for standing in present:
        pod = standing.pod
        is_new = pod.node and pod.uid not in counted
        if is_new and (pod.uid in {*excluded, *broken} or _ended_by_its_node(standing)):
            new.setdefault(pod.node, []).append(pod.uid)
    kept = {entry.node: entry for entry in unexpired(known, now=now)}
    for node, uids in new.items():
        last = kept.pop(node, Offences(node=node))
        times = [at for at in last.at if now - at < WINDOW]
        kept[node] = Offences(
            node=node,
            at=(*times, now)[-_MOST_PER_NODE:],
            uids=(*last.uids, *uids)[-_MOST_PODS:],
        )
    return tuple(kept.values())[-_MOST_NODES:]


def unexpired(known: Iterable[Offences], *, now: datetime) -> tuple[Offences, ...]:
    """What is not forgotten yet."""
    return tuple(entry for entry in known if _counts(entry, now=now))


def avoided(known: Iterable[Offences], *, after: int, now: datetime) -> tuple[str, ...]:
    """Nodes that new pods are kept off now, by name; none where `after` is 0."""
    if not after:
        return ()
    worst = [entry.node for entry in unexpired(known, now=now) if len(entry.at) >= after]
    return tuple(sorted(worst[-MOST_AVOIDED:]))


def until(known: Offences) -> datetime:
    """How long a node is avoided, if nothing else happens there."""
    return known.at[-1] + WINDOW


def _counts(known: Offences, *, now: datetime) -> bool:
    return bool(known.at) and now < until(known)


def _broken(standings: Iterable[Standing]) -> set[str]:
    """uids of pods whose trainers gave up for what can only be their node's fault."""
    ended = [standing.pod for standing in standings if is_broken_by_infrastructure(standing)]
    is_shared = len({pod.node for pod in ended}) > 1
    return set() if is_shared else {pod.uid for pod in ended}


def _ended_by_its_node(standing: Standing) -> bool:
    """Whether the pod ended by no order and by no fault of its containers."""
    pod = standing.pod
    if pod.deleting or pod.phase is not Phase.FAILED:
        return False
    return pod.disrupted or (pod.exit_code is None and not pod.setup_failed)
