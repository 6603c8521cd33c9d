import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from concertina_api.errors import InvalidJob
from concertina_trainer.agent.endpoint import serve_endpoint
from concertina_trainer.agent.metrics import PodCollector, Tally
from tests.ports import free_port


def collector():
    return PodCollector(Tally(), namespace="lab", job="tiny", pod="tiny-0")


def status_of(port, path, host="127.0.0.1"):
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_the_kubelet_learns_when_the_workers_are_warm():
    ready = False
    server = serve_endpoint(collector(), port=free_port(), is_ready=lambda: ready)
    try:
        port = server.server_address[1]
        assert status_of(port, "/readyz") == 503
        ready = True
        assert status_of(port, "/readyz") == 200
        assert status_of(port, "/metrics") == 200
        if has_ipv6():
            assert status_of(port, "/readyz", host="[::1]") == 200
    finally:
        server.shutdown()
        server.server_close()


def test_a_taken_port_is_a_mistake_that_the_command_tells(run):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidJob, match=f"CONCERTINA_METRICS_PORT={port}: cannot serve"):
            serve_endpoint(collector(), port=port, is_ready=lambda: True)

        done = subprocess.run(
            [sys.executable, "-m", "concertina_trainer.agent"],
            env={
                "CONCERTINA_JOB": str(run.folder / "job.yaml"),
                "CONCERTINA_POD": "tiny-0",
                "CONCERTINA_UID": "u",
                "CONCERTINA_MEMBERSHIP": str(run.membership),
                "CONCERTINA_REPORT": str(run.folder / "report.json"),
                "CONCERTINA_RUN_DIR": str(run.folder),
                "CONCERTINA_METRICS_PORT": str(port),
            },
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2
    assert "cannot serve metrics there" in done.stderr
