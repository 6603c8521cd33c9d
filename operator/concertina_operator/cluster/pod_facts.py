"""Turns a pod's API object into the facts that a plan is computed from, and says whose it is.

Called by the reflector of pods and by facts.py. Outcomes are those of the container that trains:
sidecars end neither a pod nor the training. Pure: no I/O, no clock.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from concertina_operator.cluster.notices import tolerated_keys
from concertina_operator.cluster.pod import JOB_LABEL, TEMPLATE_ANNOTATION, TRAINER_ANNOTATION
from concertina_operator.cluster.store import Key
from concertina_operator.cluster.template import (
    Lifecycle,
    grace_after_hook,
    trainer_container_name,
)
from concertina_operator.observed import Phase, PodFacts

DISRUPTION: Final = "DisruptionTarget"
"""Condition of a pod that Kubernetes is about to end, or has ended, for reasons of its own."""
MAX_ENDING: Final = 400
"""Characters; a container may write 4 KiB about its end."""
_OUT_OF_MEMORY: Final = "OOMKilled"
"""Reason of a container that was killed at its memory limit."""
_QUIET_ENDS: Final = frozenset({"Completed", "Error"})
"""Reasons that say no more than the exit code."""
_QUIET_WAITS: Final = frozenset({"", "ContainerCreating", "PodInitializing"})
"""What a container that starts as it should waits for."""
_PHASES: Final = frozenset(Phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedPod:
    """A pod with the job that it belongs to."""

    job: Key
    """Named by its controller, which is a job where the pod is ours; else by its label."""
    owner: str
    """uid of its controller, which alone decides whose it is."""
    facts: PodFacts
    template: str = ""
    """Stands for the template that it was built from; empty where that is not known."""
    tolerated: frozenset[str] = frozenset()
    """Keys of taints that it tolerates by name."""


def read_pod(document: Mapping[str, Any], _: OwnedPod | None = None) -> OwnedPod:
    """The pod's facts, and whose it is."""
    metadata, status = document["metadata"], document.get("status") or {}
    owner, labels = _controller(document), metadata.get("labels") or {}
    trainer = _trainer_status(document)
    ended = trainer.get("state", {}).get("terminated")
    phase = status.get("phase", "Pending")
    return OwnedPod(
        # Not by its label first, which tools and people rewrite.
        job=Key(metadata["namespace"], owner.get("name") or labels.get(JOB_LABEL, "")),
        owner=owner.get("uid", ""),
        template=(metadata.get("annotations") or {}).get(TEMPLATE_ANNOTATION, ""),
        tolerated=tolerated_keys(document["spec"]),
        facts=PodFacts(
            name=metadata["name"],
            uid=metadata["uid"],
            created=datetime.fromisoformat(metadata["creationTimestamp"]),
            phase=Phase(phase) if phase in _PHASES else Phase.UNKNOWN,
            placed=bool(document["spec"].get("nodeName")),
            node=document["spec"].get("nodeName") or "",
            addresses=tuple(entry["ip"] for entry in status.get("podIPs") or ()),
            ready=_condition(status, "Ready") is not None,
            deleting="deletionTimestamp" in metadata,
            grace_seconds=_grace_seconds(document),
            exit_code=int(ended.get("exitCode", -1)) if ended is not None else None,
            setup_failed=ended is None and any(_failed_setups(status)),
            disrupted=_condition(status, DISRUPTION) is not None,
            notice=_disruption_in_words(status),
            out_of_memory=ended is not None and ended.get("reason") == _OUT_OF_MEMORY,
            ending="; ".join(_end_in_words(document, ended))[:MAX_ENDING],
            message="; ".join(_hindrances(document)),
        ),
    )


def owner_of(document: Mapping[str, Any]) -> str:
    """uid of the controller of an object; empty when it has none."""
    return str(_controller(document).get("uid", ""))


def is_watched(document: Mapping[str, Any]) -> bool:
    """Whether the watch of the pods tells what becomes of it."""
    return JOB_LABEL in (document["metadata"].get("labels") or {})


def owner_in_words(document: Mapping[str, Any]) -> str:
    """The controller of an object, as people name it."""
    owner = _controller(document)
    return f"{owner['kind']} {owner['name']} ({owner['uid']})" if owner else "nobody"


def _controller(document: Mapping[str, Any]) -> Mapping[str, Any]:
    owners = document["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), {})


def _trainer_status(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Status of the container that trains: sidecars end neither the pod nor the training."""
    return _of_trainer(document, (document.get("status") or {}).get("containerStatuses") or ())


def _of_trainer(
    document: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """What is about the container that trains."""
    annotations = document["metadata"].get("annotations") or {}
    name = annotations.get(TRAINER_ANNOTATION) or trainer_container_name(document["spec"])
    return next((entry for entry in entries if entry.get("name") == name), {})


def _grace_seconds(document: Mapping[str, Any]) -> int | None:
    """Time that the trainer has from its SIGTERM on, by the deletion that is under way."""
    granted = document["metadata"].get("deletionGracePeriodSeconds")
    if granted is None:
        return None
    trainer = _of_trainer(document, document["spec"].get("containers") or ())
    lifecycle = Lifecycle.model_validate(trainer.get("lifecycle") or {})
    return grace_after_hook(granted, lifecycle=lifecycle)


def _hindrances(document: Mapping[str, Any]) -> Iterator[str]:
    """Why the pod does not run, in the server's words."""
    name, status = document["metadata"]["name"], document.get("status") or {}
    if status.get("phase") in ("Running", "Succeeded"):
        return
    if status.get("message"):
        yield f"{name}: {status['message']}"
    for entry in status.get("conditions") or ():
        if entry.get("type") == "PodScheduled" and entry.get("status") == "False":
            yield f"{name}: {entry.get('message') or entry.get('reason', '')}"
    for field in ("initContainerStatuses", "containerStatuses"):
        for entry in status.get(field) or ():
            waiting = (entry.get("state") or {}).get("waiting") or {}
            if waiting.get("reason", "") not in _QUIET_WAITS:
                told = waiting.get("message") or waiting["reason"]
                yield f"{name}: container {entry['name']}: {told}"


def _condition(status: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """A condition of the pod, if it is True."""
    return next(
        (
            entry
            for entry in status.get("conditions") or ()
            if entry.get("type") == name and entry.get("status") == "True"
        ),
        None,
    )


def _disruption_in_words(status: Mapping[str, Any]) -> str:
    """Who is about to end the pod; Kubernetes takes the condition back when nothing came of it."""
    found = _condition(status, DISRUPTION)
    if found is None:
        return ""
    told = (str(found.get(field) or "") for field in ("reason", "message"))
    return ": ".join(text for text in (DISRUPTION, *told) if text)[:MAX_ENDING]


def _failed_setups(status: Mapping[str, Any]) -> Iterator[str]:
    """Init containers that ended badly, in words, once the pod is given up."""
    if status.get("phase") != "Failed":
        return
    for entry in status.get("initContainerStatuses") or ():
        ended = (entry.get("state") or {}).get("terminated") or {}
        if code := ended.get("exitCode", 0):
            told = "".join(f": {words}" for words in _reason_in_words(ended))
            yield f"init container {entry['name']} ended with code {code}{told}"


def _end_in_words(document: Mapping[str, Any], ended: Mapping[str, Any] | None) -> Iterator[str]:
    """Why the pod or its trainer ended, beyond the exit code."""
    status = document.get("status") or {}
    if status.get("phase") == "Failed":
        yield from _reason_in_words(status)
    yield from _failed_setups(status) if ended is None else _reason_in_words(ended)
    if ended is not None and ended.get("reason") == _OUT_OF_MEMORY:
        trainer = _of_trainer(document, document["spec"].get("containers") or ())
        limit = (trainer.get("resources") or {}).get("limits", {}).get("memory")
        if limit:
            yield f"the limit of the container is {limit}"


def _reason_in_words(part: Mapping[str, Any]) -> Iterator[str]:
    """Reason and message of a pod's status or of a container's end, where they say something."""
    reason = part.get("reason", "")
    told = [reason if reason not in _QUIET_ENDS else "", (part.get("message") or "").strip()]
    if any(told):
        yield ": ".join(text for text in told if text)
