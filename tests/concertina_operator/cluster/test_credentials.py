import ssl
import sys

import pytest
import yaml

from concertina_operator.cluster.credentials import Credentials, NoCluster, read_credentials


@pytest.fixture(autouse=True)
def outside(monkeypatch, tmp_path):
    """No cluster is known but by what the test says."""
    for name in ("CONCERTINA_KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))


@pytest.fixture
def account(tmp_path, monkeypatch):
    """A pod's service account."""
    folder = tmp_path / "account"
    folder.mkdir()
    for name, text in (("token", "first\n"), ("ca.crt", "x"), ("namespace", "ml")):
        (folder / name).write_text(text)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    return folder


def a_kubeconfig(path, *, user, context):
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"} | context}],
        "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:1/"}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_a_pod_uses_its_service_account_and_reads_the_token_anew_each_time(account):
    found = read_credentials(account)
    assert (found.server, found.namespace) == ("https://10.0.0.1:6443", "ml")
    assert found.headers == {"Authorization": "Bearer first"}
    (account / "token").write_text("second")
    assert read_credentials(account).headers == {"Authorization": "Bearer second"}


def test_an_address_of_version_six_is_bracketed(account, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    assert read_credentials(account).server == "https://[fd00::1]:6443"


def test_says_what_reads_a_kubeconfig_where_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(NoCluster, match="this is no pod, and a kubeconfig is read by the package"):
        read_credentials(tmp_path)


@pytest.mark.parametrize("variable", ["CONCERTINA_KUBECONFIG", "KUBECONFIG"])
def test_a_kubeconfig_gives_server_token_and_namespace(variable, tmp_path, monkeypatch):
    path = a_kubeconfig(tmp_path / "k", user={"token": "abc"}, context={"namespace": "ml"})
    monkeypatch.setenv(variable, path)
    found = read_credentials(tmp_path)
    assert (found.server, found.namespace) == ("https://127.0.0.1:1", "ml")
    assert found.headers == {"Authorization": "Bearer abc"}


def test_the_kubeconfig_that_is_named_goes_before_the_service_account(
    account, tmp_path, monkeypatch
):
    path = a_kubeconfig(tmp_path / "k", user={"username": "a", "password": "b"}, context={})
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", path)
    found = read_credentials(account)
    assert (found.server, found.namespace) == ("https://127.0.0.1:1", "default")


def test_no_cluster_is_an_error_in_words(tmp_path):
    with pytest.raises(NoCluster, match="no cluster: "):
        read_credentials(tmp_path)


def test_certificates_are_checked_no_more_strictly_by_newer_releases_of_python(monkeypatch):
    create = ssl.create_default_context

    def create_as_of_3_13(**options):
        context = create(**options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", create_as_of_3_13)
    context = Credentials(server="https://10.0.0.1").tls()
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
