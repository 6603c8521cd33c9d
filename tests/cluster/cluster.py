"""A running test cluster, as tests see it. Made by `lifecycle.start`, or from a kubeconfig."""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.api import Api, wait_for
from tests.cluster.build import binaries
from tests.cluster.certificates import write_kubeconfig
from tests.cluster.layout import LAYOUT, Layout, read_layout

ORDER_SECONDS = 30.0


class ClusterFailure(Exception):
    """The cluster cannot be started, or not be reached; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster that tests may use."""

    kubeconfig: Path
    """Of an administrator."""
    url: str
    kubectl: Path | None = None
    layout: Layout | None = None
    """None for a cluster that somebody else started."""

    def admin(self) -> Api:
        """A new connection as administrator."""
        return Api(self.kubeconfig)

    def run_kubectl(
        self, *arguments: str, kubeconfig: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """kubectl with these arguments, as administrator or as who the kubeconfig names."""
        if self.kubectl is None:
            raise ClusterFailure("there is no kubectl")
        command = [str(self.kubectl), f"--kubeconfig={kubeconfig or self.kubeconfig}"]
        if self.layout is not None:  # not the user's own cache
            command.append(f"--cache-dir={self.layout.state / 'kubectl'}")
        command += arguments
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise ClusterFailure(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done

    def service_account_kubeconfig(
        self, path: Path, *, namespace: str, name: str, seconds: int = 24 * 3600
    ) -> Path:
        """Write a kubeconfig with a token of this service account, and return its path."""
        api = self.admin()
        account = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}"
        token = api.create(f"{account}/token", {"spec": {"expirationSeconds": seconds}})
        roots = api.get(f"/api/v1/namespaces/{namespace}/configmaps/kube-root-ca.crt")
        authority = base64.b64encode(roots["data"]["ca.crt"].encode()).decode()
        api.close()
        return write_kubeconfig(
            path,
            cluster={"server": self.url, "certificate-authority-data": authority},
            user={"token": token["status"]["token"]},
        )

    def order(self, component: str, order: str) -> None:
        """`start`, `stop`, `freeze` or `thaw` a component, such as kube-apiserver.

        Raises:
            ClusterFailure: it is not our cluster.
        """
        if self.layout is None:
            raise ClusterFailure(f"cannot {order} {component}: the cluster is not ours")
        path = self.layout.state / "orders" / component
        partial = path.with_name(f".{component}")
        partial.write_text(order)
        partial.rename(path)
        wait_for(lambda: not path.exists(), lambda: f"{order} {component}", ORDER_SECONDS)

    def audit_events(self) -> Iterator[dict]:
        """What the audit log holds so far, oldest first; empty without `audit`."""
        if self.layout is None or not self.layout.audit_log.exists():
            return
        with self.layout.audit_log.open() as lines:
            for line in lines:
                if line.endswith("\n"):  # the last one may still be written
                    yield json.loads(line)


def open_cluster(kubeconfig: Path) -> Cluster:
    """The cluster that a kubeconfig names: one that `up` started, or somebody else's."""
    api = Api(kubeconfig)
    described = kubeconfig.parent / LAYOUT
    built = binaries() / "kubectl"
    found = str(built) if built.exists() else shutil.which("kubectl")
    return Cluster(
        kubeconfig=kubeconfig,
        url=api.url,
        kubectl=None if found is None else Path(found),
        layout=read_layout(described.read_text()) if described.exists() else None,
    )


def wait_for_namespace(api: Api, name: str) -> None:
    """Wait until pods can be created in a namespace: for its service account and its CA."""
    api.wait(f"/api/v1/namespaces/{name}/serviceaccounts/default", bool, "no service account")
    api.wait(f"/api/v1/namespaces/{name}/configmaps/kube-root-ca.crt", bool, "no CA")
