"""Says which nodes are about to be taken away: by taints that say so, before their pods are told.

The reflector of nodes keeps what `notice_taints` finds; observe.py puts it into the facts of the
pods that run there. Pure: no I/O, no clock.

A taint is a notice when whoever sets it drains the node next. Those are none: a cordon
(`node.kubernetes.io/unschedulable`), which an administrator may leave for days, and whose drain
tells the pods itself; candidates and risks (`DeletionCandidateOfClusterAutoscaler`,
`aws-node-termination-handler/rebalance-recommendation`), of which nothing may come; and nodes that
are silent, shut down or out of service, whose pods can hand over nothing any more.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Set
from typing import Any, Final

KNOWN_TAINTS: Final = frozenset(
    {
        # Karpenter, before it drains a node for whatever reason, a spot interruption too; the second
        # one before its version 1.
        "karpenter.sh/disrupted",
        "karpenter.sh/disruption",
        # Cluster Autoscaler, once it has decided to take the node away.
        "ToBeDeletedByClusterAutoscaler",
        # AWS Node Termination Handler with --taint-node, as it begins to drain.
        "aws-node-termination-handler/spot-itn",
        "aws-node-termination-handler/asg-lifecycle-termination",
        "aws-node-termination-handler/scheduled-maintenance",
        # GKE, when the machine is about to be ended: spot, maintenance.
        "cloud.google.com/impending-node-termination",
        # AKS node auto-drain, on a scheduled event such as the preemption of a spot machine.
        "remediator.kubernetes.azure.com/unschedulable",
        "remediator.aks.microsoft.com/unschedulable",
    }
)
"""Keys of the taints that count without being asked for."""
MAX_TAINTS: Final = 8
"""Notices of one node that are kept."""
MAX_ASKED: Final = 64
"""Keys of taints that may be asked for beside the known ones."""
_KEY: Final = re.compile(
    r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
)


def taints_fault(asked: Collection[str]) -> str:
    """Why these are no keys of taints to ask for, in words; empty when they are."""
    if len(asked) > MAX_ASKED:
        return f"{len(asked)} keys of taints > {MAX_ASKED}"
    strange = sorted(key for key in asked if not _KEY.fullmatch(key))
    return f"{strange[0]!r} is no key of a taint, such as example.com/going" if strange else ""


def notice_taints(document: Mapping[str, Any], *, known: Set[str]) -> tuple[str, ...]:
    """The keys of a node's taints that are notices; `known` are all such keys."""
    taints = (document.get("spec") or {}).get("taints") or ()
    return tuple(sorted({taint["key"] for taint in taints} & known))[:MAX_TAINTS]


def tolerated_keys(pod_spec: Mapping[str, Any]) -> frozenset[str]:
    """Keys of taints that a pod tolerates by name: its author knows of them.

    Who tolerates whatever comes (no key) has meant none of them.
    """
    return frozenset(
        toleration["key"]
        for toleration in pod_spec.get("tolerations") or ()
        if toleration.get("key")
    )


def notice_of(node: str, taints: Iterable[str], *, tolerated: Set[str]) -> str:
    """What the taints of its node say to a pod, in words; empty when nothing."""
    told = [key for key in taints if key not in tolerated]
    return f"node {node} has the taint {', '.join(told)}" if told else ""
