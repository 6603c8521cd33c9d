"""Operators of a whole cluster as processes of their own, with the rights of its service account.

What it may do is what `concertina install` gives it, and no more.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from concertina_operator.cluster.install import NAMESPACE, install_objects
from concertina_operator.cluster.rights import OPERATOR
from tests.cluster.api import wait_for
from tests.cluster.cluster import Cluster
from tests.concertina_operator.cluster.installed import apply_all, wait_in_force

USER = f"system:serviceaccount:{NAMESPACE}:{OPERATOR}"
COMMAND = (sys.executable, "-m", "concertina_operator.cluster")
LEAD_SECONDS = 60.0
STOP_SECONDS = 30.0


class Operator:
    """One replica at a time; the test ends it and starts it again as it likes."""

    def __init__(self, kubeconfig: Path, log: Path, *, import_path: str | None = None) -> None:
        """`import_path`: where an operator of another commit is."""
        self.kubeconfig = kubeconfig
        self.log = log
        self._environment = os.environ | {
            "CONCERTINA_KUBECONFIG": str(kubeconfig),
            "CONCERTINA_WATCH_NODES": "true",
        }
        if import_path is not None:
            self._environment["PYTHONPATH"] = import_path
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it, and wait until it leads."""
        told = self._launch()
        self._wait_said(" leads", since=told)

    def replace(self, other: "Operator") -> None:
        """Start it beside the other one, end that, and wait until this one leads."""
        told = self._launch()
        self._wait_said(" serves health", since=told)
        other.stop()
        self._wait_said(" leads", since=told)

    def stop(self) -> None:
        """Tell it to end, as the kubelet does, and wait for that."""
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(STOP_SECONDS) == 0, self.text()
        self._process = None

    def kill(self) -> None:
        """End it without a word; nothing happens when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def text(self) -> str:
        """All that has been printed to its log."""
        return self.log.read_text() if self.log.exists() else ""

    def _launch(self) -> int:
        """Start it; how long its log was before."""
        assert self._process is None
        told = len(self.text())
        command = [*COMMAND, "--port", "0", "--lease-namespace", NAMESPACE]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        return told

    def _wait_said(self, words: str, *, since: int) -> None:
        def is_said() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.text()
            return words in self.text()[since:]

        wait_for(is_said, lambda: f"it has not said{words!r}\n{self.text()}", LEAD_SECONDS)


def install(cluster: Cluster, folder: Path) -> Path:
    """Apply what this commit installs; a kubeconfig of the operator's account."""
    apply_objects(cluster, everything())
    wait_in_force(cluster, folder)
    return cluster.service_account_kubeconfig(
        folder / "operator.kubeconfig", namespace=NAMESPACE, name=OPERATOR
    )


def everything() -> list[dict[str, Any]]:
    """The objects of an installation with all that can be asked for: nodes are watched."""
    return install_objects(image="none", notice_taints=())


def apply_objects(cluster: Cluster, objects: Iterable[dict[str, Any]]) -> None:
    """All that an installation consists of but the deployment: there is no image here."""
    with closing(cluster.admin()) as api:
        apply_all(api, [entry for entry in objects if entry["kind"] != "Deployment"])
