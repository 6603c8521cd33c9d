"""Decides the next membership from the present one and who is there. Called by plan.py.

Pure: no I/O, no clock. Old members keep their order and come first, so that shards move least;
warm pods join as soon as they make an allowed size; who leaves is listed until it has handed over;
who is lost is listed so that nobody waits for it; when nobody remains, the round is empty. A round
that is not acknowledged yet is replaced only when something forces it: a loss, a leave, or an
arbitration.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from concertina_api.v1alpha1 import Intent, Member, Membership, Pods
from concertina_operator.attendance import Attendance, Lost
from concertina_operator.sizing import is_allowed, largest_size


class RoundReason(StrEnum):
    """Why a round is published or kept; also the reason of the Resizing condition."""

    STEADY = "Steady"
    ROUND_OPEN = "RoundOpen"
    PROBING = "Probing"
    STARTING = "Starting"
    GROWING = "Growing"
    SHRINKING = "Shrinking"
    LEAVING = "Leaving"
    LOSS = "Loss"
    RENEWED = "Renewed"
    DISMISSED = "Dismissed"
    REOPENED = "Reopened"


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRound:
    """The membership to be in force, which may be the present one."""

    membership: Membership | None
    reason: RoundReason
    message: str


def dismissed(
    present: Membership | None, there: Attendance, *, intent: Intent, number: int
) -> NextRound:
    """The round without members: who is alive saves, hands over and exits.

    `number` is the next round. Nothing is published when they were told already, nor when nobody
    is there to read it, unless the job goes on and its round names pods that are gone.
    """
    is_read = bool(there.alive) or (
        intent is Intent.RUN and present is not None and present.members
    )
    if present is None or not is_read:
        return NextRound(
            membership=present, reason=RoundReason.STEADY, message="no pod holds state"
        )
    if not present.members and present.intent is intent:
        waiting = _names(there.alive)
        message = f"round {present.round} waits for {waiting} to save and exit"
        return NextRound(membership=present, reason=RoundReason.ROUND_OPEN, message=message)
    following = _following(present, number=number, intent=intent).model_copy(
        update={"leaving": there.alive, "lost": _lost(present, there, there.lost)}
    )
    names = _names(there.alive) or "nobody is left to"
    message = f"round {number} has no members ({intent.value}): {names} save and exit"
    return NextRound(membership=following, reason=RoundReason.DISMISSED, message=message)


def concluded(present: Membership, *, number: int) -> NextRound:
    """The round after the last: all samples are consumed, so all members stop.

    Everyone stays listed, also who has ended already, because the list says whose end counts.
    """
    if not present.members:
        message = f"round {present.round} waits for {_names(present.leaving)} to exit"
        return NextRound(membership=present, reason=RoundReason.ROUND_OPEN, message=message)
    following = _following(present, number=number, intent=Intent.STOP).model_copy(
        update={"leaving": present.members}
    )
    message = f"round {number} has no members: {_names(present.members)} are finished and exit"
    return NextRound(membership=following, reason=RoundReason.DISMISSED, message=message)


def reopened(present: Membership | None, there: Attendance, *, number: int) -> NextRound | None:
    """After a suspension: an empty round that says Run, so that new pods do not exit at once.

    None when the present membership says Run already.
    """
    if present is None or present.intent is Intent.RUN:
        return None
    if not there.committed:
        message = f"round {present.round} waits for {_names(there.alive)} to save and exit"
        return NextRound(membership=present, reason=RoundReason.ROUND_OPEN, message=message)
    following = _following(present, number=number, intent=Intent.RUN)
    message = f"round {number} says Run again: {present.intent.value} is over"
    return NextRound(membership=following, reason=RoundReason.REOPENED, message=message)


def probed(present: Membership, *, probe: int, message: str) -> NextRound:
    """The same round with a new probe, which everyone in it is to echo."""
    asking = present.model_copy(update={"probe": probe})
    return NextRound(membership=asking, reason=RoundReason.PROBING, message=message)


def held(present: Membership, *, message: str) -> NextRound:
    """The present round, while it is in doubt."""
    return NextRound(membership=present, reason=RoundReason.PROBING, message=message)


def next_round(
    present: Membership | None,
    there: Attendance,
    *,
    pods: Pods,
    wanted: int,
    number: int,
    arbitrated: tuple[Lost, ...] | None = None,
    may_wait: bool = False,
) -> NextRound:
    """The next membership of a job that is to run with `wanted` pods.

    `arbitrated` are members that an arbitration excludes (none of them in `there.lost`); an empty
    tuple renews the round as it is. With `may_wait` a first round waits for all wanted pods.
    """
    excluded = {entry.member.key for entry in arbitrated or ()}
    lost = (*there.lost, *(arbitrated or ()))
    here = tuple(member for member in there.here if member.key not in excluded)
    going = tuple(
        member for member in (*there.leavers, *there.handing_over) if member.key not in excluded
    )
    is_forced = bool(lost or there.leavers or arbitrated is not None)
    if not there.committed and not is_forced:
        assert present is not None
        waiting = "save and exit" if not present.members else "acknowledge it"
        names = _names(present.members[:1] or there.handing_over)
        message = f"round {present.round} waits for {names} to {waiting}"
        return NextRound(membership=present, reason=RoundReason.ROUND_OPEN, message=message)

    stay, dropped = here[:wanted], here[wanted:]
    size = _size(len(stay), len(there.newcomers), pods=pods, wanted=wanted, may_wait=may_wait)
    joiners = there.newcomers[: max(size - len(stay), 0)]
    members = (*stay, *joiners)
    going = (*going, *dropped)
    if not is_forced and not joiners and not dropped:
        message = f"{len(stay)} pods train" if stay else f"{len(there.newcomers)} pods are warm"
        return NextRound(membership=present, reason=RoundReason.STEADY, message=message)
    base = present or Membership(round=0)
    following = _following(base, number=number, intent=Intent.RUN).model_copy(
        update={
            "members": members,
            "leaving": going,
            "lost": _lost(base, there, lost),
        }
    )
    reason = _reason(there, lost=lost, joiners=joiners, dropped=dropped, stay=stay)
    return NextRound(
        membership=following,
        reason=reason,
        message=_sentence(following, joiners=joiners, notices=there.notices, lost=lost, pods=pods),
    )


def _size(num_stay: int, num_newcomers: int, *, pods: Pods, wanted: int, may_wait: bool) -> int:
    """Members of the next round: the largest allowed size that the warm pods make.

    Never below those who stay: a loss forces a size that is not allowed rather than drop more.
    """
    if not num_stay and may_wait and num_newcomers < wanted:
        return 0
    return max(num_stay, largest_size(pods, at_most=min(wanted, num_stay + num_newcomers)))


def _following(present: Membership, *, number: int, intent: Intent) -> Membership:
    return Membership(
        protocol=present.protocol,
        round=number,
        intent=intent,
        probe=present.probe,
        request_sequence=present.request_sequence,
    )


def _lost(present: Membership, there: Attendance, lost: Iterable[Lost]) -> tuple[Member, ...]:
    """The newly lost; as long as the round is open also those that it lists."""
    earlier = () if there.committed else present.lost
    by_key = {member.key: member for member in (*earlier, *(entry.member for entry in lost))}
    return tuple(by_key.values())


def _reason(
    there: Attendance,
    *,
    lost: tuple[Lost, ...],
    joiners: tuple[Member, ...],
    dropped: tuple[Member, ...],
    stay: tuple[Member, ...],
) -> RoundReason:
    if lost:
        return RoundReason.LOSS
    if there.leavers:
        return RoundReason.LEAVING
    if dropped:
        return RoundReason.SHRINKING
    if joiners:
        return RoundReason.GROWING if stay else RoundReason.STARTING
    return RoundReason.RENEWED


def _sentence(
    following: Membership,
    *,
    joiners: tuple[Member, ...],
    notices: tuple[str, ...],
    lost: tuple[Lost, ...],
    pods: Pods,
) -> str:
    count = len(following.members)
    parts = [f"round {following.round} of {count} pod{'' if count == 1 else 's'}"]
    if joiners:
        parts.append(f"{_names(joiners)} join")
    if following.leaving:
        parts.append(f"{_names(following.leaving)} leave")
    parts += notices
    if lost:
        parts.append(_told(lost))
    if count and not is_allowed(pods, size=count):
        parts.append(f"{count} is forced, it is not an allowed size")
    return "; ".join(parts)


def _told(lost: Iterable[Lost]) -> str:
    return ", ".join(f"{entry.member.pod} is lost: {entry.reason}" for entry in lost)


def _names(members: Iterable[Member]) -> str:
    return ", ".join(member.pod for member in members)
