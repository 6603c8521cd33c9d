"""Asks the API server whether it would take a job's pods, once for each template.

Called by the reconcile before the first pod of a template is created. The pod as it will be built is
created without effect and with strict field validation, so a misspelt field is found, in the
server's own words. What says nothing about the template (rights, quota, a busy server) is no
verdict: the creation itself will tell.
"""

from collections.abc import Mapping
from typing import Any, Final

from concertina_api.v1alpha1 import AdaptiveTrainingJob
from concertina_operator.cluster import paths
from concertina_operator.cluster.claims import Verdict
from concertina_operator.cluster.client import Api, ApiError
from concertina_operator.cluster.pod import build_pod
from concertina_operator.cluster.template import template_faults, template_hash

_INVALID: Final = (400, 422)
_REHEARSAL: Final = {"dryRun": "All", "fieldValidation": "Strict"}


class DryRuns:
    """Verdicts on the present template of each job."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[str, tuple[str, Verdict]] = {}

    async def verdict(
        self, job: AdaptiveTrainingJob, document: Mapping[str, Any], *, name: str
    ) -> Verdict | None:
        """Whether pods can be created, tried with the free pod name `name`; None when unknown."""
        if faults := template_faults(job.spec):
            return Verdict(is_valid=False, reason="Conflict", message="; ".join(faults))
        digest = template_hash(job.spec)
        tried, verdict = self._known.get(job.metadata.uid, ("", None))
        if tried == digest:
            return verdict
        verdict = await self._tried(job, document, name=name)
        if verdict is not None:
            self._known[job.metadata.uid] = digest, verdict
        return verdict

    def forget(self, job_uid: str) -> None:
        """The job is gone."""
        self._known.pop(job_uid, None)

    async def _tried(
        self, job: AdaptiveTrainingJob, document: Mapping[str, Any], *, name: str
    ) -> Verdict | None:
        pod = build_pod(document, job.spec, name=name)
        path = paths.pods(job.metadata.namespace)
        try:
            await self._api.call("POST", path, body=pod, params=_REHEARSAL)
        except ApiError as error:
            if error.status not in _INVALID:
                return None
            return Verdict(is_valid=False, reason="Refused", message=error.message)
        return Verdict(is_valid=True, reason="Accepted", message="the API server takes the pods")
