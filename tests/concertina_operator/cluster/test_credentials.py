import pytest

from concertina_operator.cluster.credentials import NoCluster, read_credentials
from tests.cluster.certificates import write_kubeconfig


def test_reads_server_and_token_of_the_chosen_kubeconfig(tmp_path, monkeypatch):
    path = write_kubeconfig(
        tmp_path / "config", cluster={"server": "https://10.0.0.1:6443/"}, user={"token": "abc"}
    )
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(path))
    found = read_credentials()
    assert found.server == "https://10.0.0.1:6443"
    assert found.headers == {"Authorization": "Bearer abc"}
    assert found.namespace == "default"


def test_a_pod_uses_its_service_account(tmp_path, monkeypatch):
    for name, text in {"token": "abc\n", "namespace": "research", "ca.crt": ""}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.delenv("CONCERTINA_KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = read_credentials(tmp_path)
    assert found.server == "https://[fd00::1]:443"
    assert found.headers == {"Authorization": "Bearer abc"}
    assert found.namespace == "research"


def test_says_that_there_is_no_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(tmp_path / "absent"))
    with pytest.raises(NoCluster, match="no cluster"):
        read_credentials()
