"""The one round of a worker under stock torchrun, which has no agent of ours to tell it of rounds.

torchrun starts its workers anew for every membership (restart mode), so a worker lives in one
round. It is told to the session like any other: by a membership file, in a folder of its own. The
round meets in torchrun's store, which is fresh at each start.
"""

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from concertina_api.errors import InvalidJob
from concertina_api.v1alpha1 import Member, Membership
from concertina_trainer.agent.mailbox import put
from concertina_trainer.rounds.desk import connect

_NUMBERS = ("RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
_START = "concertina/start"
_MEET = timedelta(minutes=5)


def is_static(environment: Mapping[str, str]) -> bool:
    """Whether torchrun, and no agent of ours, has started this worker."""
    return "TORCHELASTIC_RUN_ID" in environment and not environment.get("CONCERTINA_MAILBOX")


def static_round(environment: Mapping[str, str] = os.environ) -> tuple[Member, Path]:
    """This worker as a member of its round, and its mailbox, which holds the membership.

    Each rank is a member of one worker. All draw one incarnation, so that nothing of an earlier
    start is taken for this one. Raises InvalidJob for variables that torchrun would not set,
    RoundFailed when its store does not answer.
    """
    rank, world_size, port, restarts = (_number(environment, name) for name in _NUMBERS)
    host = environment.get("MASTER_ADDR", "127.0.0.1")
    store = connect(host, port, timeout=_MEET)
    if rank == 0:
        store.set(_START, secrets.token_hex(4))
    incarnation = store.get(_START).decode()
    members = tuple(
        Member(pod=f"rank-{r}", uid=f"rank-{r}", incarnation=incarnation, host=host, port=port)
        for r in range(world_size)
    )
    mailbox = Path(tempfile.mkdtemp(prefix="concertina-"))
    atexit.register(shutil.rmtree, mailbox, ignore_errors=True)
    put(mailbox / "membership.json", Membership(round=1 + restarts, members=members))
    return members[rank], mailbox


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    if not value.isdecimal():
        raise InvalidJob(f"{name}={value!r} is not a number; torchrun sets it")
    return int(value)
