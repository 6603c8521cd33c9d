"""Where the API server is and how to prove who we are: in a pod, or by the kubeconfig.

Used by client.py at the first call and again after each 401, and by kopf's login (jobs.py). In a pod the
files of the service account are read anew each time, because the kubelet replaces the token. Else
the official `kubernetes` package reads the kubeconfig, exec plugins included; it is imported only
then, for its size, and the operator's image does without it.
"""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from concertina_api.errors import ConcertinaError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class NoCluster(ConcertinaError):
    """There is no usable kubeconfig, and this is no pod."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """One reading of the credentials."""

    server: str
    """URL without a trailing slash."""
    ca_path: str | None = None
    """None trusts what the system trusts."""
    insecure: bool = False
    certificate_path: str | None = None
    key_path: str | None = None
    authorization: str | None = None
    """Value of the Authorization header."""
    namespace: str = "default"
    """The pod's own namespace, or that of the kubeconfig's context."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What each request carries."""
        return {"Authorization": self.authorization} if self.authorization else {}

    def tls(self) -> ssl.SSLContext:
        """A context for connections to the server."""
        context = ssl.create_default_context(cafile=self.ca_path)
        # On by default since Python 3.13; many clusters sign with less than it asks for.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate_path:
            context.load_cert_chain(self.certificate_path, self.key_path)
        return context


def read_credentials(folder: Path = SERVICE_ACCOUNT) -> Credentials:
    """The credentials as they are now. Raises NoCluster when there are none.

    CONCERTINA_KUBECONFIG, then a pod's service account, then KUBECONFIG and ~/.kube/config.
    """
    chosen = os.environ.get("CONCERTINA_KUBECONFIG")
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if not chosen and host and (folder / "token").exists():
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        return Credentials(
            server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
            ca_path=str(folder / "ca.crt"),
            authorization=f"Bearer {(folder / 'token').read_text().strip()}",
            namespace=(folder / "namespace").read_text().strip(),
        )
    return _from_kubeconfig(chosen or os.environ.get("KUBECONFIG"))


def _from_kubeconfig(path: str | None) -> Credentials:
    try:
        from kubernetes import client
        from kubernetes import config as untyped
    except ModuleNotFoundError as error:
        raise NoCluster(
            "no cluster: this is no pod, and a kubeconfig is read by the package kubernetes, which is"
            " not installed"
        ) from error
    config: Any = untyped
    found: Any = client.Configuration()
    try:
        config.load_kube_config(config_file=path, client_configuration=found)
        _, context = config.list_kube_config_contexts(config_file=path)
    except (config.ConfigException, OSError) as error:
        raise NoCluster(f"no cluster: {error}") from error
    return Credentials(
        server=found.host.rstrip("/"),
        ca_path=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        certificate_path=found.cert_file,
        key_path=found.key_file,
        # Its releases name the token by either word.
        authorization=found.get_api_key_with_prefix("BearerToken", "authorization"),
        namespace=context["context"].get("namespace", "default"),
    )
