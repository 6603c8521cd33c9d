"""The operator of a whole cluster as a process of its own, with the rights of its service account.

What it may do is what `concertina install` gives it, and no more.
"""

import os
import subprocess
import sys
from pathlib import Path

from concertina_operator.cluster.install import NAMESPACE, install_objects
from concertina_operator.cluster.rights import OPERATOR
from tests.cluster.api import wait_for
from tests.cluster.cluster import Cluster
from tests.concertina_operator.cluster.installed import apply_all, wait_in_force

USER = f"system:serviceaccount:{NAMESPACE}:{OPERATOR}"
COMMAND = (sys.executable, "-m", "concertina_operator.cluster")
LEAD_SECONDS = 60.0


class Operator:
    """One replica at a time; the test ends it and starts it again as it likes."""

    def __init__(self, kubeconfig: Path, log: Path) -> None:
        self._environment = os.environ | {"CONCERTINA_KUBECONFIG": str(kubeconfig)}
        self.log = log
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it, and wait until it leads."""
        assert self._process is None
        told = len(self.text())
        command = [*COMMAND, "--port", "0", "--lease-namespace", NAMESPACE]
        with self.log.open("ab") as log:
            self._process = process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log
            )

        def leads() -> bool:
            assert process.poll() is None, self.text()
            return " leads" in self.text()[told:]

        wait_for(leads, lambda: f"it does not lead\n{self.text()}", LEAD_SECONDS)

    def kill(self) -> None:
        """End it without a word; nothing happens when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def text(self) -> str:
        """All that its replicas have printed."""
        return self.log.read_text() if self.log.exists() else ""


def install(cluster: Cluster, folder: Path) -> Path:
    """Apply all but the deployment; a kubeconfig of the operator's account."""
    api = cluster.admin()
    objects = install_objects(image="none")
    apply_all(api, [entry for entry in objects if entry["kind"] != "Deployment"])
    api.close()
    wait_in_force(cluster, folder)
    return cluster.service_account_kubeconfig(
        folder / "operator.kubeconfig", namespace=NAMESPACE, name=OPERATOR
    )
