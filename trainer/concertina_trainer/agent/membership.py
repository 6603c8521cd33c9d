"""Where an agent reads the membership: a file here, on Kubernetes an object (membership_watch.py).

The rendezvous and the live agent read through this and never decide who trains.
"""

from pathlib import Path
from typing import Protocol

from concertina_api.v1alpha1 import Membership, TrainingMembership
from concertina_trainer.agent.mailbox import Inbox


class MembershipSource(Protocol):
    """The newest membership of a job, as far as this pod knows it."""

    def latest(self) -> Membership | None:
        """The newest membership; None before the first. Cheap enough to ask ten times a second."""

    def gone(self) -> bool:
        """Whether there was a membership and it was deleted: the job is over, exit now."""


class MembershipFile:
    """A membership in a file that its writer replaces by rename and removes at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inbox = Inbox(path, TrainingMembership)
        self._latest: Membership | None = None

    def latest(self) -> Membership | None:
        """See MembershipSource. A lower round than the one read before is not believed."""
        document = self._inbox.read()
        if document is not None and (
            self._latest is None or document.spec.round >= self._latest.round
        ):
            self._latest = document.spec
        return self._latest

    def gone(self) -> bool:
        """See MembershipSource."""
        return self._latest is not None and not self._path.exists()
