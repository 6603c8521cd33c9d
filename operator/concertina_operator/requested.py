"""Decides which batch-size request counts. A request comes in a report, which is untrusted.

Called by acceptance.py for every report. Pure: no I/O, no clock. Only the leader asks, and only in
the round in force: who leads next repeats the newest request. The trainer numbers its decisions to
grow, one by one; several may lie between two reports that are seen, so what a request may ask for
follows from the difference of the numbers.
"""

from concertina_api.v1alpha1 import BatchSizeRequest, BatchStatus, JobSpec, Membership, Report
from concertina_api.v1alpha1.job import RuleName

MAX_FIRST_SEQUENCE = 2**31
"""Largest number of the first request: it may go on counting from an earlier job's checkpoint."""
MAX_STEPS = 128
"""Decisions that may lie between two requests: no rule makes as many in a whole run."""


def counted_request(
    report: Report,
    *,
    membership: Membership | None,
    spec: JobSpec,
    before: BatchStatus,
    accepted: int,
) -> tuple[BatchSizeRequest | None, str | None]:
    """The request of a report as far as it counts, and why it does not.

    `before` is what was accepted last, `accepted` the newest number that was. What a leader asked
    in an earlier round is passed over without a word: in the new one it is asked again.
    """
    request = report.request
    if request is None:
        return None, None
    leader = membership.members[0] if membership is not None and membership.members else None
    if membership is not None and leader is not None and report.uid == leader.uid:
        if report.round < membership.round:
            return None, None
        refusal = _refusal(request, spec=spec, before=before, accepted=accepted)
        return (request, None) if refusal is None else (None, refusal)
    left = {member.uid for member in membership.leaving} if membership is not None else set()
    if request.sequence <= accepted or report.uid in left:
        return None, None
    told = "no round is in force"
    if membership is not None:
        leads = f"which {leader.pod} leads" if leader is not None else "which nobody leads"
        told = f"in round {membership.round}, {leads}"
    return None, f"request {request.sequence}: {told}"


def _refusal(
    request: BatchSizeRequest, *, spec: JobSpec, before: BatchStatus, accepted: int
) -> str | None:
    batch, told = spec.batch, f"request {request.sequence}"
    steps = request.sequence - accepted
    if steps < 0:
        return f"{told} is older than request {accepted}"
    if not accepted and steps > MAX_FIRST_SEQUENCE:
        return f"{told} is the first one, with a number above {MAX_FIRST_SEQUENCE}"
    if accepted and steps > MAX_STEPS:
        return f"{told} comes more than {MAX_STEPS} after request {accepted}"
    told += f" runs {request.effective} samples"
    if request.effective > batch.max:
        return f"{told}, above max {batch.max}"
    if request.effective % batch.micro_batch_size:
        return f"{told}, not a multiple of microBatchSize {batch.micro_batch_size}"
    if not accepted or before.sequence != accepted or batch.rule.name is RuleName.RAMP:
        return None  # nothing to compare with, or the user's own stages
    if not steps:
        same = request.effective == before.effective
        return None if same else f"{told}, but {before.effective} when it was accepted"
    limit = max(before.effective, batch.initial) * batch.rule.max_growth**steps
    if request.effective > limit:
        return (
            f"{told}, above {before.effective} of request {accepted} times maxGrowth"
            f" {batch.rule.max_growth:g} for each of {steps} decisions"
        )
    return None
