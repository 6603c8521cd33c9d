"""Reads a job and what belongs to it from a cluster, for the commands that show or explain it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from concertina_api.errors import ConcertinaError, InvalidJob
from concertina_operator.cluster import paths
from concertina_operator.cluster.facts import observed_from
from concertina_operator.cluster.pod import JOB_LABEL
from concertina_operator.commands.connection import MERGE_PATCH, Cluster, ClusterRefusal
from concertina_operator.observed import Observed

Document = Mapping[str, Any]


class NoSuchJob(ConcertinaError):
    """The namespace has no job of this name, or the cluster knows no jobs at all."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveJob:
    """The API objects of one job, read one after the other."""

    job: Document
    membership: Document | None
    pods: tuple[Document, ...]
    reports: tuple[Document, ...]
    """Those of the pods, in no order."""

    def observed(self) -> Observed:
        """The facts that the operator would plan from. Raises InvalidJob with the job's name."""
        try:
            return observed_from(
                self.job, membership=self.membership, pods=self.pods, reports=self.reports
            )
        except InvalidJob as error:
            metadata = self.job["metadata"]
            raise InvalidJob(
                f"{metadata['namespace']}/{metadata['name']} cannot be read here:\n{error}"
            ) from error


def find_job(cluster: Cluster, name: str) -> Document:
    """The job's object. Raises NoSuchJob."""
    try:
        return cluster.call("GET", paths.jobs(cluster.namespace, name))
    except ClusterRefusal as error:
        raise _explained(error, cluster, name) from error


def list_jobs(cluster: Cluster, *, everywhere: bool) -> tuple[Document, ...]:
    """All jobs of the namespace, or of all namespaces. Raises NoSuchJob without an installation."""
    try:
        return cluster.items(paths.jobs(None if everywhere else cluster.namespace))
    except ClusterRefusal as error:
        raise _explained(error, cluster, "") from error


def patch_job(cluster: Cluster, name: str, *, spec: Document) -> Document:
    """The job's object after fields of its spec were replaced. Raises NoSuchJob."""
    try:
        return cluster.call(
            "PATCH",
            paths.jobs(cluster.namespace, name),
            body={"spec": spec},
            content_type=MERGE_PATCH,
        )
    except ClusterRefusal as error:
        raise _explained(error, cluster, name) from error


def live_job(cluster: Cluster, name: str) -> LiveJob:
    """The job and what belongs to it. Raises NoSuchJob."""
    job = find_job(cluster, name)
    pods = cluster.items(
        paths.pods(cluster.namespace), params={"labelSelector": f"{JOB_LABEL}={name}"}
    )
    names = {pod["metadata"]["name"] for pod in pods}
    return LiveJob(
        job=job,
        membership=_membership(cluster, name),
        pods=pods,
        reports=tuple(
            report
            for report in cluster.items(paths.reports(cluster.namespace))
            if report["metadata"]["name"] in names
        ),
    )


def _membership(cluster: Cluster, name: str) -> Document | None:
    try:
        return cluster.call("GET", paths.memberships(cluster.namespace, name))
    except ClusterRefusal as error:
        if error.status == 404:
            return None
        raise


def _explained(error: ClusterRefusal, cluster: Cluster, name: str) -> ConcertinaError:
    """A refusal with what to do about it, where that is known."""
    if error.status != 404:
        return error
    if error.reason:
        return NoSuchJob(f"no job {name} in namespace {cluster.namespace}")
    return NoSuchJob("this cluster knows no AdaptiveTrainingJobs: run concertina install first")
