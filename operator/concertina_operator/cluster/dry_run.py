"""Asks the API server whether it would take a job's pods, once for each template.

Called by the reconcile before the first pod of a template is created. The pod as it will be built is
created without effect and with strict field validation, so a misspelt field is found, in the
server's own words. What says nothing about the template (rights, quota, a policy, a webhook, a busy
server) is no verdict: the creation itself will tell. Any answer but a yes is asked for again,
because what the pod names (a class, a volume) may be made meanwhile.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from concertina_api.v1alpha1 import AdaptiveTrainingJob
from concertina_operator.backoff import backoff
from concertina_operator.cluster import paths
from concertina_operator.cluster.claims import Verdict
from concertina_operator.cluster.client import Api
from concertina_operator.cluster.errors import ApiError
from concertina_operator.cluster.pod import build_pod
from concertina_operator.cluster.template import template_faults, template_hash

_INVALID: Final = (400, 422)
_ADMISSION: Final = ("admission webhook", "AdmissionPolicy")
"""Words of refusals by what is configured on the cluster, and may change at any time."""
_REHEARSAL: Final = {"dryRun": "All", "fieldValidation": "Strict"}
_FIRST_PAUSE: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """What was answered last for one job's template."""

    digest: str
    verdict: Verdict | None
    attempts: int
    again_at: datetime | None
    """None when the answer stands."""


class DryRuns:
    """Verdicts on the present template of each job."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._trials: dict[str, _Trial] = {}

    async def verdict(
        self, job: AdaptiveTrainingJob, document: Mapping[str, Any], *, name: str, now: datetime
    ) -> Verdict | None:
        """Whether pods can be created, tried with the free pod name `name`; None when unknown."""
        if faults := template_faults(job.spec):
            return Verdict(is_valid=False, reason="Conflict", message="; ".join(faults))
        digest = template_hash(job.spec)
        last = self._trials.get(job.metadata.uid)
        if last is not None and last.digest != digest:
            last = None
        if last is not None and (last.again_at is None or now < last.again_at):
            return last.verdict
        verdict = await self._tried(job, document, name=name)
        attempts = 1 + (last.attempts if last is not None else 0)
        pause = backoff(attempts, base=_FIRST_PAUSE, job_uid=job.metadata.uid)
        is_final = verdict is not None and verdict.is_valid
        self._trials[job.metadata.uid] = _Trial(
            digest=digest,
            verdict=verdict,
            attempts=attempts,
            again_at=None if is_final else now + pause,
        )
        return verdict

    def time_to_next(self, job_uid: str, *, now: datetime) -> timedelta | None:
        """Time until the server should be asked again; None when it need not be."""
        trial = self._trials.get(job_uid)
        if trial is None or trial.again_at is None or trial.again_at <= now:
            return None
        return trial.again_at - now

    def forget(self, job_uid: str) -> None:
        """The job is gone."""
        self._trials.pop(job_uid, None)

    async def _tried(
        self, job: AdaptiveTrainingJob, document: Mapping[str, Any], *, name: str
    ) -> Verdict | None:
        pod = build_pod(document, job.spec, name=name)
        path = paths.pods(job.metadata.namespace)
        try:
            await self._api.call("POST", path, body=pod, params=_REHEARSAL)
        except ApiError as error:
            is_admission = any(words in error.message for words in _ADMISSION)
            if error.status not in _INVALID or is_admission:
                return None
            return Verdict(is_valid=False, reason="Refused", message=error.message)
        return Verdict(is_valid=True, reason="Accepted", message="the API server takes the pods")
