"""Known vulnerabilities of what is locked, as far as PyPI's list of them can be asked from here."""

import json
import subprocess
import sys

import pytest
import uv

from tests.cluster.pods import REPOSITORY


@pytest.mark.matrix
def test_no_package_that_is_locked_has_a_known_vulnerability(tmp_path):
    locked = tmp_path / "locked.txt"
    export = [
        uv.find_uv_bin(),
        "export",
        "--quiet",
        "--frozen",
        "--no-emit-project",
        "--all-extras",
    ]
    subprocess.run([*export, f"--output-file={locked}"], cwd=REPOSITORY, check=True)
    audit = [
        sys.executable,
        "-m",
        "pip_audit",
        "--disable-pip",
        "--require-hashes",
        "--format=json",
    ]
    done = subprocess.run(
        [*audit, f"--requirement={locked}"], capture_output=True, text=True, check=False
    )
    if "ConnectionError" in done.stderr:
        pytest.skip("the list of vulnerabilities cannot be reached")
    audited = json.loads(done.stdout)["dependencies"]
    told = [package for package in audited if "vulns" in package]
    if not told:
        pytest.skip(f"the index has no list of vulnerabilities: {audited[0]['skip_reason']}")
    assert [package for package in told if package["vulns"]] == []
