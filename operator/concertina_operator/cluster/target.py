"""The job that is acted for, as the reconcile hands it on. Pure: no I/O, no clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from concertina_api.v1alpha1 import AdaptiveTrainingJob, Membership, TrainingMembership
from concertina_operator.cluster.facts import StoredMembership
from concertina_operator.cluster.pod import JOB_LABEL
from concertina_operator.cluster.store import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The job that is acted for."""

    job: AdaptiveTrainingJob
    document: Mapping[str, Any]
    """The same as it is stored."""
    membership: StoredMembership | None
    """The one that the plan was made from."""
    pod_versions: Mapping[str, int] = field(default_factory=dict)
    """resourceVersions that the plan was made from, by uid, as far as they are known."""

    @property
    def namespace(self) -> str:
        """Where its pods and its membership are."""
        return self.job.metadata.namespace

    @property
    def key(self) -> Key:
        """Names the job."""
        return Key(self.namespace, self.job.metadata.name)

    @property
    def newest_round(self) -> int:
        """Of the job's own membership as it is stored; 0 when there is none."""
        stored = self.membership
        if stored is None or stored.owner != self.uid or stored.membership is None:
            return 0
        return stored.membership.round

    def about(self, pod: str) -> dict[str, Any]:
        """What a line of the log about one of its pods names."""
        return {"pod": pod, "round": self.newest_round}

    @property
    def uid(self) -> str:
        """Owner of its objects."""
        return self.job.metadata.uid


def membership_document(membership: Membership, target: Target) -> dict[str, Any]:
    """The API object of a job's membership, owned by the job."""
    document = TrainingMembership(spec=membership)
    metadata = target.job.metadata
    return {
        **document.model_dump(mode="json", by_alias=True, exclude_none=True),
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "labels": {JOB_LABEL: metadata.name},
            "ownerReferences": [
                {
                    "apiVersion": target.job.api_version,
                    "kind": target.job.kind,
                    "name": metadata.name,
                    "uid": metadata.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
    }
