"""Carries out a plan's actions on Kubernetes. Called by the reconcile after each plan.

Each action is idempotent: a pod that exists, one that is gone and a membership that is written
already are success. What a write answers is taken into the stores, so the next plan knows of it.
A pod that the server refuses is remembered (refusals.py) and ends nothing else.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_never

from concertina_api.v1alpha1 import AdaptiveTrainingJob, Membership, TrainingMembership
from concertina_operator.actions import Action, CreatePod, DeletePod, PublishMembership
from concertina_operator.cluster import paths
from concertina_operator.cluster.bindings import TrainerBindings
from concertina_operator.cluster.client import Api, Conflict, NotFound, Refused
from concertina_operator.cluster.facts import StoredMembership, owner_of
from concertina_operator.cluster.metrics import Metrics
from concertina_operator.cluster.pod import JOB_LABEL, build_pod
from concertina_operator.cluster.rate import Rate
from concertina_operator.cluster.refusals import Refusals
from concertina_operator.cluster.store import Key

TakeAnswer = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The job that is acted for."""

    job: AdaptiveTrainingJob
    document: Mapping[str, Any]
    """The same as it is stored."""
    membership: StoredMembership | None
    """The one that the plan was made from."""

    @property
    def namespace(self) -> str:
        """Where its pods and its membership are."""
        return self.job.metadata.namespace

    @property
    def uid(self) -> str:
        """Owner of its objects."""
        return self.job.metadata.uid


class Hands:
    """What acts on the API server."""

    def __init__(
        self,
        api: Api,
        *,
        take_pod: TakeAnswer,
        take_membership: TakeAnswer,
        refusals: Refusals,
        bindings: TrainerBindings | None,
        rate: Rate,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        """`take_pod` and `take_membership` are told the answers to writes.

        `bindings` is None where trainers have their rights already.
        """
        self._api = api
        self._take_pod = take_pod
        self._take_membership = take_membership
        self._refusals = refusals
        self._bindings = bindings
        self._rate = rate
        self._metrics = metrics
        self._clock = clock

    async def apply(self, actions: Iterable[Action], *, target: Target) -> None:
        """Does the actions: the membership first, then pods side by side. Raises ApiError."""
        pods: list[CreatePod | DeletePod] = []
        for action in actions:
            match action:
                case PublishMembership():
                    await self._publish(action.membership, target)
                case CreatePod() | DeletePod():
                    pods.append(action)
                case _:
                    assert_never(action)
        create = [action for action in pods if isinstance(action, CreatePod)]
        delete = [action for action in pods if isinstance(action, DeletePod)]
        await _all(
            self._create_all([action.name for action in create], target),
            *(self._delete(action, target) for action in delete),
        )

    def forget(self, key: Key, *, uid: str) -> None:
        """Drops what is remembered of a job that is gone."""
        self._refusals.forget_job(uid)
        if self._bindings is not None:
            self._bindings.forget(key.namespace)

    async def _publish(self, membership: Membership, target: Target) -> None:
        namespace, name = target.namespace, target.job.metadata.name
        known = target.membership
        body = _membership_document(membership, target)
        if known is not None:
            # With the version that the plan was made from: nobody wrote in between.
            body["metadata"]["resourceVersion"] = known.version
            path = paths.memberships(namespace, name)
            self._take_membership(await self._api.call("PUT", path, body=body))
        else:
            path = paths.memberships(namespace)
            self._take_membership(await self._api.call("POST", path, body=body))

    async def _create_all(self, names: Sequence[str], target: Target) -> None:
        """Creates pods that differ in nothing but their names."""
        if not names:
            return
        if self._bindings is not None:
            await self._bindings.ensure(target.namespace)
        pod = build_pod(target.document, target.job.spec, name=names[0])
        named = ({**pod, "metadata": {**pod["metadata"], "name": name}} for name in names)
        await _all(*(self._create(body, target) for body in named))

    async def _create(self, body: Mapping[str, Any], target: Target) -> None:
        name = body["metadata"]["name"]
        await self._rate.turn()
        try:
            pod = await self._api.call("POST", paths.pods(target.namespace), body=body)
        except Refused as error:
            self._refuse(name, target, words=error.message, is_taken=False)
        except Conflict:
            await self._look_at(name, target)
        else:
            self._refusals.forget(target.uid, name)
            self._metrics.pods_created.inc()
            self._take_pod(pod)

    async def _look_at(self, name: str, target: Target) -> None:
        """A pod of that name exists: ours, and not seen yet, or somebody else's."""
        try:
            pod = await self._api.call("GET", paths.pods(target.namespace, name))
        except NotFound:
            return
        if owner_of(pod) == target.uid:
            self._refusals.forget(target.uid, name)
            self._take_pod(pod)
        else:
            words = f"a pod of this name belongs to {_owner_in_words(pod)}"
            self._refuse(name, target, words=words, is_taken=True)

    def _refuse(self, name: str, target: Target, *, words: str, is_taken: bool) -> None:
        self._metrics.pods_refused.inc()
        self._refusals.note(target.uid, name, words=words, is_taken=is_taken, now=self._clock())

    async def _delete(self, action: DeletePod, target: Target) -> None:
        if any(action.uid == refusal.uid for refusal in self._refusals.of(target.uid)):
            self._refusals.forget(target.uid, action.name)
            return
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": action.uid},
        }
        if action.grace_seconds is not None:
            options["gracePeriodSeconds"] = action.grace_seconds
        path = paths.pods(target.namespace, action.name)
        try:
            answer = await self._api.call("DELETE", path, body=options)
        except (NotFound, Conflict):
            return  # it is gone, or another pod has its name
        self._metrics.pods_deleted.inc()
        if answer.get("kind") == "Pod":
            self._take_pod(answer)


async def _all(*writes: Coroutine[Any, Any, None]) -> None:
    """Waits for the end of all of them, and raises the first error."""
    for outcome in await asyncio.gather(*writes, return_exceptions=True):
        if outcome is not None:
            raise outcome


def _membership_document(membership: Membership, target: Target) -> dict[str, Any]:
    document = TrainingMembership(spec=membership)
    metadata = target.job.metadata
    return {
        **document.model_dump(mode="json", by_alias=True, exclude_none=True),
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "labels": {JOB_LABEL: metadata.name},
            "ownerReferences": [
                {
                    "apiVersion": target.job.api_version,
                    "kind": target.job.kind,
                    "name": metadata.name,
                    "uid": metadata.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
    }


def _owner_in_words(document: Mapping[str, Any]) -> str:
    owners = document["metadata"].get("ownerReferences") or ()
    owner = next((entry for entry in owners if entry.get("controller")), None)
    return f"{owner['kind']} {owner['name']} ({owner['uid']})" if owner else "nobody"
