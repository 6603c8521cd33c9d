"""The round's store as the participants use it: greetings, go, header, done, outcome.

A round's store lives with the agent of its leader. Every wait is a poll that a newer membership
ends, and the two decisions of a round (go, outcome) are settled by compare-and-set: the first
answer wins and everyone obeys it.
"""

import json
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any

import torch.distributed as dist

# torch.distributed re-exports these without saying so to type checkers.
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from concertina_api.errors import RoundFailed
from concertina_trainer.rounds.agreement import Greeting

POLL_SECONDS = 0.002
SLOW_POLL_SECONDS = 0.02
"""While the others still train: a joiner may wait for as long as a step takes."""


class Answer(StrEnum):
    """How a decision of the round ended."""

    YES = "yes"
    NO = "no"


class Desk:
    """One participant's access to the store of a round.

    `superseded` says whether a newer membership makes waiting pointless. A store that is gone
    shows as torch's DistError, which the transaction turns into RoundFailed.
    """

    def __init__(self, store: Store, *, number: int, participants: Sequence[str], me: str) -> None:
        self.store = PrefixStore(f"round-{number}/", store)
        self._participants = tuple(participants)
        self._number = number
        self.index = self._participants.index(me)

    def greet(self, greeting: Greeting, *, superseded: Callable[[], bool]) -> list[Greeting]:
        """Offer what I hold and wait for all others; by number of participant.

        Raises RoundFailed when the round was given up before everyone had come.
        """
        self.store.set(f"hello/{self.index}", greeting.model_dump_json())
        keys = [f"hello/{number}" for number in range(len(self._participants))]
        # The first to see everyone says go; whoever gives up says no. From then on all act alike.
        while not self.store.check(["go"]):
            if self.store.check(keys):
                self._settle("go", Answer.YES)
            elif superseded():
                self._settle("go", Answer.NO)
            else:
                others = self.store.check([f"hello/{(self.index + 1) % len(keys)}"])
                time.sleep(POLL_SECONDS if others else SLOW_POLL_SECONDS)
        if self.store.get("go").decode() != Answer.YES:
            raise RoundFailed(f"round {self._number} was given up before everyone had come")
        return [Greeting.model_validate_json(self.store.get(key)) for key in keys]

    def tell(self, key: str, value: Any) -> None:
        """Write a JSON value for all."""
        self.store.set(f"told/{key}", json.dumps(value))

    def ask(self, key: str, *, superseded: Callable[[], bool]) -> Any:
        """Read a JSON value that somebody tells."""
        name = f"told/{key}"
        while not self.store.check([name]):
            if superseded():
                raise RoundFailed(f"round {self._number} was superseded while waiting for {key}")
            time.sleep(POLL_SECONDS)
        return json.loads(self.store.get(name))

    def told(self, key: str) -> Any | None:
        """The JSON value, or None when nobody has told it yet."""
        name = f"told/{key}"
        return json.loads(self.store.get(name)) if self.store.check([name]) else None

    def finish(self, *, new_ranks: Sequence[int], superseded: Callable[[], bool]) -> bool:
        """Say done and wait for the outcome; True when the round is committed.

        The participant of rank 0 commits once every new member is done. Who must give up before
        tries to settle for no; if the commit was first, it is committed for everyone.
        """
        if self.index in new_ranks:
            self.store.set(f"done/{self.index}", "1")
        keys = [f"done/{number}" for number in new_ranks]
        leads = bool(new_ranks) and self.index == new_ranks[0]
        while not self.store.check(["outcome"]):
            if leads and self.store.check(keys):
                self._settle("outcome", Answer.YES)
            elif superseded():
                self._settle("outcome", Answer.NO)
            else:
                time.sleep(POLL_SECONDS)
        return self.store.get("outcome").decode() == Answer.YES

    def _settle(self, key: str, answer: Answer) -> None:
        self.store.compare_set(key, "", answer.value)


def tell_soon(store: Store, number: int, soon: dict[str, int]) -> None:
    """Leave word in the store of a round where it will begin. Raises RoundFailed."""
    try:
        PrefixStore(f"round-{number}/", store).set("told/soon", json.dumps(soon))
    except dist.DistError as error:
        raise RoundFailed(f"the store of round {number} is gone") from error


def connect(host: str, port: int, *, timeout: timedelta) -> Store:
    """A client of the store that an agent serves. Raises RoundFailed when nobody answers."""
    try:
        return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    except dist.DistError as error:
        raise RoundFailed(f"the round's store at {host}:{port} does not answer") from error
