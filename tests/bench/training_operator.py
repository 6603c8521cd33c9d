"""Kubeflow's training-operator 1.8.1 as operator_scale_peer.py runs it: built from its Go module.

It runs at its defaults, outside of the cluster. Its certificates are those of its own rotator, which
writes them into a secret and waits until it finds them in a folder with a fixed name, where a kubelet
would show them; here they are copied. Its webhook matches nothing: validation is spared.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.bench.fleet import NAMESPACE, Fleet
from tests.cluster.api import wait_for
from tests.cluster.build import BuildFailure, binaries
from tests.cluster.layout import free_ports
from tests.concertina_operator.cluster.installed import apply_all

MODULE = "github.com/kubeflow/training-operator"
VERSION = "v1.8.1"
PROGRAM = "training-operator.v1"
DEFINITION = "pytorchjobs.yaml"
JOBS = f"/apis/kubeflow.org/v1/namespaces/{NAMESPACE}/pytorchjobs"
CERTIFICATES = Path("/tmp/k8s-webhook-server/serving-certs")
"""The program has no flag for it."""
SECRET = "/api/v1/namespaces/kubeflow/secrets/training-operator-webhook-cert"
FILES = ("ca.crt", "ca.key", "tls.key", "tls.crt")
"""The last one is what it waits for."""


def built() -> Path:
    """The folder with the program and its resource definition, built if it is missing.

    Raises:
        BuildFailure: there is no Go, or it cannot be built.
    """
    folder = binaries().parent / f"training-operator-{VERSION}"
    if (folder / PROGRAM).exists():
        return folder
    if shutil.which("go") is None:
        raise BuildFailure(f"Go is not in PATH, and {PROGRAM} must be built with it")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        module = json.loads(_go("mod", "download", "-json", f"{MODULE}@{VERSION}"))
        bases = Path(module["Dir"]) / "manifests" / "base" / "crds"
        shutil.copyfile(bases / f"kubeflow.org_{DEFINITION}", folder / DEFINITION)
        flags = ("-trimpath", "-buildvcs=false", "-ldflags", "-s -w")
        _go("install", *flags, f"{MODULE}/cmd/{PROGRAM}@{VERSION}", GOBIN=place)
        (Path(place) / PROGRAM).rename(folder / PROGRAM)
    return folder


@contextmanager
def training_operator(fleet: Fleet, *flags: str) -> Iterator[subprocess.Popen]:
    """The running operator, ready for jobs; killed in the end."""
    folder = built()
    apply_all(fleet.api, [_without_status(yaml.safe_load((folder / DEFINITION).read_text()))])
    fleet.api.create("/api/v1/namespaces", {"metadata": {"name": "kubeflow"}})
    name = SECRET.rpartition("/")[2]
    fleet.api.create(SECRET.rpartition("/")[0], {"metadata": {"name": name}})
    fleet.api.create(
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", _webhook()
    )
    ports = free_ports()
    command = [
        str(folder / PROGRAM),
        f"--kubeconfig={fleet.cluster.kubeconfig}",
        "--enable-scheme=pytorchjob",
        "--metrics-bind-address=0",
        f"--health-probe-bind-address=127.0.0.1:{ports.api}",
        f"--webhook-server-port={ports.etcd}",
        *flags,
    ]
    log = fleet.folder / "training-operator.log"
    CERTIFICATES.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "TMPDIR": "/tmp"}
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        _show_certificates(fleet)
        wait_for(lambda: "Starting workers" in log.read_text(), lambda: log.read_text()[-2000:])
        yield process
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(CERTIFICATES.parent)


def jobs(number: int, *, workers: int) -> list[dict[str, Any]]:
    """Documents of jobs of a master and so many workers."""
    container = {"name": "pytorch", "image": "x"}
    pod = {"spec": {"automountServiceAccountToken": False, "containers": [container]}}

    def replicas(count: int) -> dict[str, Any]:
        return {"replicas": count, "restartPolicy": "OnFailure", "template": pod}

    return [
        {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"name": f"job-{index:04d}"},
            "spec": {"pytorchReplicaSpecs": {"Master": replicas(1), "Worker": replicas(workers)}},
        }
        for index in range(number)
    ]


def _show_certificates(fleet: Fleet) -> None:
    """Copies the secret into the folder, as soon as it is filled."""
    data = fleet.api.wait(
        SECRET, lambda found: found.get("data", {}).get("tls.crt") and found["data"], "no keys"
    )
    for name in FILES:
        partial = CERTIFICATES / f".{name}"
        partial.write_bytes(base64.b64decode(data[name]))
        partial.rename(CERTIFICATES / name)


def _webhook() -> dict[str, Any]:
    """What the rotator insists on, for jobs that nobody creates."""
    return {
        "metadata": {"name": "validator.training-operator.kubeflow.org"},
        "webhooks": [
            {
                "name": "v.training-operator.kubeflow.org",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "failurePolicy": "Ignore",
                "clientConfig": {"url": "https://127.0.0.1:9443/none"},
                "objectSelector": {"matchLabels": {"never": "match"}},
                "rules": [
                    {
                        "apiGroups": ["kubeflow.org"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pytorchjobs"],
                    }
                ],
            }
        ],
    }


def _without_status(document: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in document.items() if field != "status"}


def _go(*arguments: str, **variables: str) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", **variables}
    done = subprocess.run(
        ["go", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = "\n".join(done.stderr.splitlines()[-20:])
        raise BuildFailure(f"`go {' '.join(arguments)}` ended with {done.returncode}:\n{words}")
    return done.stdout
