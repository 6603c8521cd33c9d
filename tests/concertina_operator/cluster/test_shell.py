import time

from tests.cluster.api import wait_for
from tests.concertina_operator.cluster.processes import ShellThread
from tests.concertina_operator.cluster.trainers import Trainers, a_trained_job, prepare_node


def test_an_operator_of_all_namespaces_gives_trainers_their_rights(
    resources, api, namespace, monkeypatch
):
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(resources.kubeconfig))
    prepare_node(api)
    trainers = Trainers(api=api, namespace=namespace)
    trainers.create(a_trained_job())
    with ShellThread(None):
        trainers.until_trained_by("tiny-lm-0")
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"
    binding = api.get(f"{path}/concertina-trainer")
    assert binding["roleRef"]["kind"] == "ClusterRole"
    assert binding["subjects"][0]["name"] == f"system:serviceaccounts:{namespace}"


def test_watches_on_which_there_is_nothing_to_say_are_heard(resources, namespace, monkeypatch):
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(resources.kubeconfig))
    for module in ("client", "jobs"):
        monkeypatch.setattr(f"concertina_operator.cluster.{module}.WATCH_SECONDS", 1)
    with ShellThread(namespace) as operator:
        wait_for(lambda: operator.shell.is_synced, lambda: "not synced")
        began = time.monotonic()

        def slowest_heard():
            now = time.monotonic()
            return now - operator.shell.silent_seconds(succeeded_at=now)

        wait_for(lambda: slowest_heard() > began + 3, lambda: f"{began}: {slowest_heard()}")
