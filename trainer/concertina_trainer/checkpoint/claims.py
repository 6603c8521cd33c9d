"""Who writes which part of a checkpoint, where several hold it and cannot speak to each other.

Called by loop/last_save.py. A claim is an object in the folder of the checkpoint that only one
worker can put there: its word that it is alive and will write the part, so that nobody else does.
"""

from collections.abc import Iterable

from concertina_trainer.checkpoint.format import CLAIM_SUFFIX, Identity, claim_name, report_name
from concertina_trainer.checkpoint.storage import Storage


def claim(storage: Storage, *, identity: Identity, rank: int) -> bool:
    """Whether from now on this worker alone writes the part of `rank`. Raises OSError."""
    folder = storage.within(identity.folder)
    try:
        folder.claim(claim_name(rank))
    except FileExistsError:
        return False
    # Of an earlier try: it may say that there is no such part.
    folder.remove(report_name(rank))
    return True


def is_whole(storage: Storage, *, identity: Identity) -> bool:
    """Whether every part will be written by somebody. Raises OSError."""
    there = set(storage.within(identity.folder).names())
    return all(claim_name(rank) in there for rank in range(identity.world_size))


def is_claimed(folder: Storage) -> bool:
    """Whether somebody has claimed a part in this folder of a checkpoint. Raises OSError."""
    return any(name.endswith(CLAIM_SUFFIX) for name in folder.names())


def newest_first(identities: Iterable[Identity]) -> list[Identity]:
    """In the order in which they are worth saving: rounds count before steps, as for `latest`."""
    return sorted(set(identities), key=lambda each: (each.round, each.step), reverse=True)
