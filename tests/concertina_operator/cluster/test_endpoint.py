"""The ports of a real operator, which has no API server to speak to: it serves them all the same."""

import ssl
import subprocess
import urllib.error
import urllib.request

import pytest

from tests.cluster.certificates import write_kubeconfig
from tests.concertina_operator.cluster.processes import operator_process

KUBE_TOKEN = "a-token-of-the-cluster"
TOKEN = "a-token-of-the-metrics"


@pytest.fixture
def start(tmp_path):
    """Starts the operator with these variables in its environment."""
    kubeconfig = write_kubeconfig(
        tmp_path / "kubeconfig",
        cluster={"server": "http://127.0.0.1:1"},
        user={"token": KUBE_TOKEN},
    )

    def replica(**variables):
        variables = {name: str(value) for name, value in variables.items()}
        return operator_process(kubeconfig, "ml", tmp_path / "log", variables=variables)

    return replica


def answered(url, *, authorization=None, trusts=None):
    """Status and words of an answer."""
    headers = {} if authorization is None else {"Authorization": authorization}
    context = ssl.create_default_context(cafile=trusts) if trusts is not None else None
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), context=context
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def a_certificate(folder, name="tls"):
    """A certificate and its key, which nobody but itself vouches for."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def test_a_token_guards_the_metrics_alone_and_can_be_changed(start, tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    with start(CONCERTINA_METRICS_TOKEN_FILE=path, CONCERTINA_LOG_LEVEL="DEBUG") as replica:
        url = f"http://127.0.0.1:{replica.port()}"
        status, text = answered(f"{url}/metrics", authorization=f"Bearer {TOKEN}")
        assert status == 200
        assert "concertina_operator_leader 0.0" in text
        for authorization in (None, "Bearer wrong", TOKEN, f"Basic {TOKEN}"):
            status, text = answered(f"{url}/metrics", authorization=authorization)
            assert (status, text) == (401, "a bearer token is needed")
        assert answered(f"{url}/healthz") == (200, "ok")
        assert answered(f"{url}/readyz")[0] in (200, 503)

        path.write_text("another-token")
        assert answered(f"{url}/metrics", authorization="Bearer another-token")[0] == 200
        assert answered(f"{url}/metrics", authorization=f"Bearer {TOKEN}")[0] == 401
        path.unlink()
        assert answered(f"{url}/metrics", authorization="Bearer another-token")[0] == 401
        log = replica.log.read_text()
        assert f"token file {path}: No such file or directory" in log
        for secret in (TOKEN, "another-token", KUBE_TOKEN):
            assert secret not in log


def test_metrics_with_a_certificate_have_a_port_of_their_own_and_the_certificate_can_be_changed(
    start, tmp_path
):
    certificate, key = a_certificate(tmp_path)
    new_certificate, new_key = a_certificate(tmp_path, "new")
    old = tmp_path / "old.crt"
    old.write_bytes(certificate.read_bytes())
    variables = {
        "CONCERTINA_METRICS_TLS_CERT_FILE": certificate,
        "CONCERTINA_METRICS_TLS_KEY_FILE": key,
    }
    with start(**variables) as replica:
        plain = f"http://127.0.0.1:{replica.port()}"
        secure = f"https://127.0.0.1:{replica.secure_port()}"
        status, text = answered(f"{secure}/metrics", trusts=old)
        assert status == 200
        assert "concertina_operator_leader" in text
        assert answered(f"{plain}/metrics")[0] == 404
        assert answered(f"{plain}/healthz") == (200, "ok")
        assert answered(f"{secure}/healthz", trusts=old)[0] == 404

        # Half of a change is no certificate yet.
        new_key.replace(key)
        assert answered(f"{secure}/metrics", trusts=old)[0] == 200
        assert "the last good certificate goes on" in replica.log.read_text()
        trusted = tmp_path / "trusted.crt"
        trusted.write_bytes(new_certificate.read_bytes())
        new_certificate.replace(certificate)
        assert answered(f"{secure}/metrics", trusts=trusted)[0] == 200
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            answered(f"{secure}/metrics", trusts=old)


@pytest.mark.parametrize(
    ("variables", "want"),
    [
        pytest.param(
            {"CONCERTINA_METRICS_TOKEN_FILE": "/nowhere"},
            "cannot start: token file /nowhere: No such file or directory",
            id="no token",
        ),
        pytest.param(
            {"CONCERTINA_METRICS_TOKEN_FILE": "/dev/null"},
            "cannot start: token file /dev/null: it is empty",
            id="an empty token",
        ),
        pytest.param(
            {"CONCERTINA_METRICS_TLS_CERT_FILE": "/nowhere"},
            "cannot start: a certificate needs its key: name both TLS files, or neither",
            id="a certificate without its key",
        ),
        pytest.param(
            {
                "CONCERTINA_METRICS_TLS_CERT_FILE": "/nowhere.crt",
                "CONCERTINA_METRICS_TLS_KEY_FILE": "/nowhere.key",
            },
            "cannot start: TLS file /nowhere.crt: No such file or directory",
            id="no certificate",
        ),
        pytest.param(
            {"CONCERTINA_LOG_FORMAT": "xml"},
            "Invalid value for '--log-format'",
            id="an unknown format of logs",
        ),
    ],
)
def test_what_cannot_be_used_is_told_at_the_start_and_the_process_ends(start, variables, want):
    with start(**variables) as replica:
        assert replica.process.wait(60) != 0
        log = replica.log.read_text()
        assert want in log
        assert "Traceback" not in log
