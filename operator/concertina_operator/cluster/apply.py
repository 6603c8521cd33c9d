"""Carries out a plan's actions on Kubernetes. Called by the reconcile after each plan.

Each action is idempotent: a pod that exists, one that is gone and a membership that is written
already are success. What a write answers is taken into the stores, so the next plan knows of it.
What the server refuses is remembered (refusals.py), and what it does not answer (unanswered.py); a
refused pod ends nothing else.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar, assert_never

from concertina_api.v1alpha1 import Membership
from concertina_operator.actions import Action, CreatePod, DeletePod, Plan, PublishMembership
from concertina_operator.cluster import paths
from concertina_operator.cluster.bindings import TrainerBindings
from concertina_operator.cluster.client import Api
from concertina_operator.cluster.deeds import Deeds
from concertina_operator.cluster.errors import ApiError, Conflict, NotFound, Refused
from concertina_operator.cluster.metrics import Metrics
from concertina_operator.cluster.pod import JOB_LABEL, build_pod
from concertina_operator.cluster.pod_facts import is_watched, owner_in_words, owner_of
from concertina_operator.cluster.rate import Rate
from concertina_operator.cluster.records import RefusedKind
from concertina_operator.cluster.refusals import Refusals
from concertina_operator.cluster.store import Key
from concertina_operator.cluster.target import Target, membership_document
from concertina_operator.cluster.unanswered import Unanswered

CREATIONS: Final = 32
"""Pods that are created at once, over all jobs: behind a slow webhook they wait for each other, and
nothing else waits for them."""
CREATIONS_OF_A_JOB: Final = 16
DELETIONS: Final = 16
MEMBERSHIP: Final = "TrainingMembership"
BINDING: Final = "RoleBinding"
_REFUSED: Final = {MEMBERSHIP: RefusedKind.MEMBERSHIP, BINDING: RefusedKind.ROLE_BINDING}

T = TypeVar("T")
TakeAnswer = Callable[[Mapping[str, Any]], None]

_log = logging.getLogger(__name__)


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
        log_format: str | None = None,
    ) -> None:
        """`take_pod` and `take_membership` are told the answers to writes.

        `bindings` is None where trainers have their rights already; `log_format` is how trainers
        log unless their template says how.
        """
        self._api = api
        self._take_pod = take_pod
        self._take_membership = take_membership
        self._refusals = refusals
        self._unanswered = Unanswered(api, take_pod=take_pod)
        self._bindings = bindings
        self._rate = rate
        self._metrics = metrics
        self._clock = clock
        self._log_format = log_format
        self._creations = asyncio.Semaphore(CREATIONS)
        self._deletions = asyncio.Semaphore(DELETIONS)

    async def look(self, key: Key, *, uid: str) -> None:
        """Sees what became of creations that were not answered, before a plan. Raises ApiError."""
        await self._unanswered.look(key.namespace, job_uid=uid)

    async def apply(self, plan: Plan, *, target: Target) -> Deeds:
        """Does what is planned: the membership first, then pods side by side; what became of it.

        Refused pods that the plan neither waits for nor gives back are wanted no more.
        """
        deeds, pods = Deeds(), (CreatePod, DeletePod)
        named = [action.name for action in plan.actions if isinstance(action, pods)]
        self._refusals.forget_all_but(target.uid, {*plan.starting, *named})
        try:
            await self._act(plan.actions, target, deeds)
        except ApiError as error:
            deeds.error = error
        return deeds

    def forget(self, key: Key, *, uid: str) -> None:
        """Drops what is remembered of a job that is gone."""
        self._refusals.forget_job(uid)
        self._unanswered.forget_job(uid)
        if self._bindings is not None:
            self._bindings.forget(key.namespace)

    async def _act(self, actions: Iterable[Action], target: Target, deeds: Deeds) -> None:
        pods: list[CreatePod | DeletePod] = []
        for action in actions:
            match action:
                case PublishMembership():
                    await self._publish(action.membership, target, deeds)
                case CreatePod() | DeletePod():
                    pods.append(action)
                case _:
                    assert_never(action)
        create = [action for action in pods if isinstance(action, CreatePod)]
        delete = [action for action in pods if isinstance(action, DeletePod)]
        await _all(
            self._create_all(create, target, deeds),
            *(self._delete(action, target, deeds) for action in delete),
        )

    async def _publish(self, membership: Membership, target: Target, deeds: Deeds) -> None:
        namespace, name = target.namespace, target.job.metadata.name
        known = target.membership
        body = membership_document(membership, target)
        try:
            if known is not None:
                # With the version that the plan was made from: nobody wrote in between.
                body["metadata"]["resourceVersion"] = known.version
                path = paths.memberships(namespace, name)
                answer = await self._api.call("PUT", path, body=body)
            else:
                answer = await self._api.call("POST", paths.memberships(namespace), body=body)
        except Refused as error:
            self._note(MEMBERSHIP, target, deeds, words=error.message)
            raise
        self._note(MEMBERSHIP, target, deeds, words="")
        self._take_membership(answer)
        deeds.has_published = True

    async def _create_all(
        self, creations: Sequence[CreatePod], target: Target, deeds: Deeds
    ) -> None:
        """Creates pods that differ in nothing but their names.

        Ever more of them side by side, as long as the server takes all: when it refuses one, the
        others would only hear the same.
        """
        if not creations:
            return
        if self._bindings is not None:
            words = await self._bindings.ensure(target.namespace, now=self._clock())
            self._note(BINDING, target, deeds, words=words)
        pod = build_pod(
            target.document,
            target.job.spec,
            name=creations[0].name,
            newest_round=target.newest_round,
            log_format=self._log_format,
            avoid=creations[0].avoid,
        )
        left, number = [creation.name for creation in creations], 1
        while left:
            batch, left = left[:number], left[number:]
            named = [{**pod, "metadata": {**pod["metadata"], "name": name}} for name in batch]
            told = await _all(*(self._ask_for(body, target, deeds) for body in named))
            if words := next((words for words in told if words), ""):
                for name in left:
                    self._refuse(name, target, words=words, is_taken=False)
                return
            number = min(2 * number, CREATIONS_OF_A_JOB)

    async def _ask_for(self, body: Mapping[str, Any], target: Target, deeds: Deeds) -> str:
        """The server's words when it would take no pod, whatever its name."""
        await self._rate.turn()
        with self._unanswered.unless_answered(target.uid, body["metadata"]["name"]):
            return await self._create(body, target, deeds)

    async def _create(self, body: Mapping[str, Any], target: Target, deeds: Deeds) -> str:
        name = body["metadata"]["name"]
        try:
            async with self._creations:
                pod = await self._api.call("POST", paths.pods(target.namespace), body=body)
        except Refused as error:
            self._refused(name, target, words=error.message, is_taken=False)
            return error.message
        except Conflict:
            await self._look_at(name, target, deeds)
            return ""
        self._refusals.forget(target.uid, name)
        self._metrics.pods_created.inc()
        _log.info("%s: pod %s is created", target.key, name, extra=target.about(name))
        deeds.created.append(name)
        self._take_pod(pod)
        return ""

    async def _look_at(self, name: str, target: Target, deeds: Deeds) -> None:
        """A pod of that name exists: ours, and not seen yet or never again, or somebody else's."""
        try:
            pod = await self._api.call("GET", paths.pods(target.namespace, name))
        except NotFound:
            return
        if owner_of(pod) != target.uid:
            words = f"a pod of this name belongs to {owner_in_words(pod)}"
            self._refused(name, target, words=words, is_taken=True)
        elif is_watched(pod):
            self._refusals.forget(target.uid, name)
            self._take_pod(pod)
        else:
            words = f"a pod of this name has lost its label {JOB_LABEL}"
            self._refuse(name, target, words=f"{words}; it is deleted", is_taken=False)
            if "deletionTimestamp" not in pod["metadata"]:
                lost = DeletePod(name=name, uid=pod["metadata"]["uid"], reason=words)
                await self._delete(lost, target, deeds)

    def _note(self, kind: str, target: Target, deeds: Deeds, *, words: str) -> None:
        """Takes down that the server would not take an object, or none any more."""
        self._refusals.note_object(target.uid, kind, words=words)
        if words:
            deeds.refused[kind] = words
            self._metrics.refused(_REFUSED[kind], job=target.key, job_uid=target.uid)

    def _refuse(self, name: str, target: Target, *, words: str, is_taken: bool) -> None:
        self._refusals.note(target.uid, name, words=words, is_taken=is_taken, now=self._clock())

    def _refused(self, name: str, target: Target, *, words: str, is_taken: bool) -> None:
        """Takes down, counts and logs what the server said to a creation."""
        self._refuse(name, target, words=words, is_taken=is_taken)
        self._metrics.refused(RefusedKind.POD, job=target.key, job_uid=target.uid)
        told = (target.key, name, words)
        _log.info("%s: pod %s is not created: %s", *told, extra=target.about(name))

    async def _delete(self, action: DeletePod, target: Target, deeds: Deeds) -> None:
        if any(action.uid == refusal.uid for refusal in self._refusals.of(target.uid)):
            self._refusals.forget(target.uid, action.name)
            return
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": action.uid},
        }
        if (version := target.pod_versions.get(action.uid)) is not None:
            options["preconditions"]["resourceVersion"] = str(version)
        if action.grace_seconds is not None:
            options["gracePeriodSeconds"] = action.grace_seconds
        path = paths.pods(target.namespace, action.name)
        try:
            async with self._deletions:
                answer = await self._api.call("DELETE", path, body=options)
        except (NotFound, Conflict):
            return  # it is gone, has changed since the plan, or another pod has its name
        self._metrics.pods_deleted.inc()
        told = (target.key, action.name, action.reason)
        _log.info("%s: pod %s is deleted: %s", *told, extra=target.about(action.name))
        deeds.deleted.append(action)
        if answer.get("kind") == "Pod" and is_watched(answer):
            self._take_pod(answer)


async def _all(*writes: Coroutine[Any, Any, T]) -> list[T]:
    """Waits for the end of all of them; their results, or the first error raised."""
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
