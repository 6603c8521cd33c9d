"""What is said where there can be no cluster: skipped with the reason, or failed where it must be."""

import os
import subprocess
import sys

import pytest

from tests.cluster.pods import REPOSITORY

ASKS = "tests/cluster/test_node.py::test_pods_reach_the_api_server_and_each_other"


@pytest.mark.parametrize(
    ("required", "want_code", "want_outcome"),
    [
        pytest.param("", 0, "1 skipped", id="wished"),
        pytest.param("1", 1, "1 error", id="required"),
    ],
)
def test_says_what_is_missing(tmp_path, required, want_code, want_outcome):
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path),
        "CONCERTINA_REQUIRE_CLUSTER": required,
        "CONCERTINA_TEST_KUBECONFIG": "",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", ASKS],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == want_code
    assert want_outcome in done.stdout.splitlines()[-1]
    assert "kube-apiserver, etcd, kubectl" in done.stdout
    assert "not built: run `python -m tests.cluster.build`" in done.stdout
