"""Agents as processes that find themselves in a pod on Kubernetes; the test plays the operator."""

import json
from contextlib import ExitStack
from pathlib import Path

from concertina_api.v1alpha1 import Member, Membership, Report, TrainingMembership, TrainingReport
from tests.concertina_trainer.agent.kubernetes import NAMESPACE, Kubernetes
from tests.concertina_trainer.agent.pods import Run, job_manifest

MEMBERSHIPS = "trainingmemberships"
REPORTS = "trainingreports"


class ClusterRun(Run):
    """A run whose membership and reports are objects of a server."""

    def __init__(self, folder: Path, stack: ExitStack, kubernetes: Kubernetes) -> None:
        super().__init__(folder, stack)
        self.kubernetes = kubernetes

    def publish(self, number: int, *members: Member, **fields: object) -> Membership:
        membership = Membership.model_validate({"round": number, "members": members, **fields})
        document = TrainingMembership(spec=membership).model_dump(mode="json", by_alias=True)
        self.kubernetes.put(MEMBERSHIPS, document | {"metadata": {"name": "tiny"}})
        return membership

    def environment(self, name: str) -> dict[str, str]:
        return {
            "CONCERTINA_SPEC": json.dumps(job_manifest()),
            "CONCERTINA_POD": name,
            "CONCERTINA_UID": f"uid-{name}",
            "CONCERTINA_NAMESPACE": NAMESPACE,
            "CONCERTINA_HOST": "127.0.0.1",
            "CONCERTINA_TOKEN": str(self.kubernetes.credentials),
            "CONCERTINA_RUN_DIR": str(self.folder),
            "CONCERTINA_GRACE_SECONDS": "60",
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.kubernetes.port),
        }

    def report(self, name: str) -> Report | None:
        document = self.kubernetes.get(REPORTS, name)
        return document and TrainingReport.model_validate(document).spec
