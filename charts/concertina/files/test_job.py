"""Trains the job of a file to its end and deletes it: what `helm test` runs in a pod.

Called as `test_job.py JOB.json SECONDS [FOLDER]`; the folder is that of the pod's service account.
Ends with 0 when the job completed, else with 1 and the job's own words why.
"""

# ruff: noqa: S310, T201
import json
import os
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
POLL_SECONDS = 1.0
GONE_SECONDS = 60.0
NOT_FOUND, CONFLICT = 404, 409
LABEL = "app.kubernetes.io/managed-by"


class Foreign(Exception):
    """A job of this name that no test has made: it is left as it is."""


class Server:
    """The API server, as the pod's service account may use it."""

    def __init__(self, folder: Path) -> None:
        host, port = (os.environ[f"KUBERNETES_SERVICE_{name}"] for name in ("HOST", "PORT"))
        self._url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._folder = folder
        self._tls = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        # On by default since Python 3.13; many clusters sign with less than it asks for.
        self._tls.verify_flags &= ~ssl.VERIFY_X509_STRICT

    def call(self, verb: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The decoded answer. Raises urllib.error.HTTPError for a refusal."""
        token = (self._folder / "token").read_text().strip()
        request = urllib.request.Request(
            self._url + path,
            method=verb,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, context=self._tls, timeout=30) as answer:
            decoded: dict[str, Any] = json.load(answer)
            return decoded


def ended(job: dict[str, Any]) -> str | None:
    """Completed or Failed; None while the job goes on."""
    conditions = job.get("status", {}).get("conditions", ())
    true = {each["type"] for each in conditions if each["status"] == "True"}
    return next((name for name in ("Completed", "Failed") if name in true), None)


def told(job: dict[str, Any]) -> str:
    """The conditions of a job in words, one a line."""
    status = job.get("status", {})
    lines = [
        f"  {each['type']}={each['status']} {each.get('reason', '')}: {each.get('message', '')}"
        for each in status.get("conditions", ())
    ]
    if not lines:
        lines = ["  no conditions: no operator has looked at it"]
    return "\n".join([f"state: {status.get('state', '')}", *lines])


def create(server: Server, collection: str, job: dict[str, Any]) -> None:
    """Create the job in the place of one that an earlier test has left.

    Raises Foreign where the name is taken, and urllib.error.HTTPError for a refusal.
    """
    strictly = f"{collection}?fieldValidation=Strict"
    try:
        server.call("POST", strictly, job)
    except urllib.error.HTTPError as error:
        if error.code != CONFLICT:
            raise
        delete(server, f"{collection}/{job['metadata']['name']}", job)
        server.call("POST", strictly, job)


def wait(server: Server, path: str, *, seconds: float) -> dict[str, Any]:
    """The job as it is when it has ended, or when its time is over."""
    deadline = time.monotonic() + seconds
    while not ended(job := server.call("GET", path)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return job


def delete(server: Server, path: str, job: dict[str, Any]) -> None:
    """Delete what a test has made of the job, and wait until it and its pods are gone.

    Raises Foreign for a job that has not the label of a test's.
    """
    deadline = time.monotonic() + GONE_SECONDS
    try:
        found = server.call("GET", path)["metadata"]
        if found.get("labels", {}).get(LABEL) != job["metadata"]["labels"][LABEL]:
            raise Foreign(
                f"{found['name']} is there, and is of no test: set test.namespace to another"
            )
        uid = found["uid"]
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        server.call("DELETE", path, body)
        while time.monotonic() < deadline and server.call("GET", path)["metadata"]["uid"] == uid:
            time.sleep(POLL_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code not in (NOT_FOUND, CONFLICT):  # it is gone, or another one has its name
            raise


def clear(server: Server, path: str, job: dict[str, Any]) -> None:
    """Delete the job, whatever became of it; what is left is told, and changes no exit code."""
    try:
        delete(server, path, job)
    except Foreign:
        return  # told when it was found
    except urllib.error.HTTPError as error:
        print(f"{path} could not be deleted: the API server answered {error.code}")


def main(file: str, seconds: str, folder: str = SERVICE_ACCOUNT) -> int:
    """The exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the job goes when the pod is deleted
    job = json.loads(Path(file).read_text())
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    collection = f"/apis/{job['apiVersion']}/namespaces/{namespace}/adaptivetrainingjobs"
    server = Server(Path(folder))
    began = time.monotonic()
    try:
        create(server, collection, job)
        found = wait(server, f"{collection}/{name}", seconds=float(seconds))
    except urllib.error.HTTPError as error:
        print(f"the API server answered {error.code}: {json.load(error)['message']}")
        return 1
    except Foreign as error:
        print(error)
        return 1
    finally:
        # Also when it was told to end before the server could say that there is a job.
        clear(server, f"{collection}/{name}", job)
    took = time.monotonic() - began
    if ended(found) != "Completed":
        print(f"{name} did not complete in {took:.0f} s\n{told(found)}")
        return 1
    print(f"{name} completed in {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
