"""Carries out a plan's actions on local processes and files. Called by the shell after each plan."""

from collections.abc import Iterable
from typing import assert_never

from concertina_api.v1alpha1 import TrainingMembership
from concertina_operator.actions import Action, CreatePod, DeletePod, PublishMembership
from concertina_operator.local.directory import RunDirectory
from concertina_operator.local.files import replace_text
from concertina_operator.local.pods import LocalPods


def apply(actions: Iterable[Action], *, directory: RunDirectory, pods: LocalPods) -> None:
    """Does the actions in order; each is idempotent."""
    for action in actions:
        match action:
            case CreatePod():
                pods.create(action.name)
            case DeletePod():
                pods.delete(action.name, uid=action.uid, grace_seconds=action.grace_seconds)
            case PublishMembership():
                document = TrainingMembership(spec=action.membership)
                text = document.model_dump_json(by_alias=True, exclude_none=True)
                replace_text(directory.membership, text)
            case _:
                assert_never(action)
