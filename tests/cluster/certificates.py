"""Keys, certificates and kubeconfigs of a cluster, made with openssl. Called once, by `up`."""

import base64
import json
import subprocess
from pathlib import Path

from tests.cluster.layout import API_SERVICE, NODE_ADDRESS, NODE_NAME, Layout

DAYS = 30
IDENTITIES = {
    "admin": "/O=system:masters/CN=admin",
    "kube-controller-manager": "/O=system:masters/CN=system:kube-controller-manager",
    "kube-scheduler": "/CN=system:kube-scheduler",
    "kube-proxy": "/CN=system:kube-proxy",
    "kwok": "/O=system:masters/CN=system:kwok",
    "kubelet": f"/O=system:nodes/CN=system:node:{NODE_NAME}",
}
"""Who asks, by component: a name of its own for each, so that the audit log can tell them apart."""
SERVER_NAMES = (
    "IP:127.0.0.1",
    f"IP:{NODE_ADDRESS}",
    f"IP:{API_SERVICE}",
    "DNS:localhost",
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
)
AUTHORITY = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
LEAF = (
    "basicConstraints=critical,CA:FALSE",
    "keyUsage=critical,digitalSignature",
    "extendedKeyUsage=serverAuth,clientAuth",
    "authorityKeyIdentifier=keyid",
)


def write_identities(layout: Layout) -> None:
    """Write every certificate and, for each identity, a kubeconfig."""
    layout.certificate("ca").parent.mkdir(mode=0o700)
    names = f"subjectAltName={','.join(SERVER_NAMES)}"
    _write_certificate(layout, "ca", subject="/CN=concertina-test-ca", extensions=AUTHORITY)
    # Only its key counts: it signs the tokens of service accounts.
    _write_certificate(layout, "tokens", subject="/CN=tokens", extensions=AUTHORITY)
    for name, subject, extensions in (
        ("kube-apiserver", "/CN=kube-apiserver", (*LEAF, names)),
        *((name, subject, LEAF) for name, subject in IDENTITIES.items()),
    ):
        _write_certificate(layout, name, subject=subject, extensions=extensions, signed=True)
    for name in IDENTITIES:
        user = {
            "client-certificate-data": _encoded(layout.certificate(name)),
            "client-key-data": _encoded(layout.key(name)),
        }
        write_kubeconfig(
            layout.kubeconfig(name),
            cluster={
                "server": layout.url,
                "certificate-authority-data": _encoded(layout.certificate("ca")),
            },
            user=user,
        )


def write_kubeconfig(path: Path, *, cluster: dict[str, str], user: dict[str, str]) -> Path:
    """Write a kubeconfig (as JSON, which is YAML) that only its owner can read; return its path."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(document, indent=1))
    return path


def _write_certificate(
    layout: Layout, name: str, *, subject: str, extensions: tuple[str, ...], signed: bool = False
) -> None:
    config = layout.state / "pki" / "openssl.cnf"
    # The system's own file would add extensions to ours.
    config.write_text("[req]\ndistinguished_name = name\n[name]\n")
    command = ["openssl", "req", "-x509", "-config", str(config), "-days", str(DAYS), "-nodes"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", subject]
    command += ["-keyout", str(layout.key(name)), "-out", str(layout.certificate(name))]
    if signed:
        command += ["-CA", str(layout.certificate("ca")), "-CAkey", str(layout.key("ca"))]
    for extension in ("subjectKeyIdentifier=hash", *extensions):
        command += ["-addext", extension]
    subprocess.run(command, check=True, capture_output=True)


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
