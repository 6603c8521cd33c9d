"""The agent's two objects on a real API server, with the token and the rights of a pod."""

import json
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from concertina_api.v1alpha1 import Intent, PodPhase, Report, TrainingMembership, TrainingReport
from concertina_operator.cluster.install import trainer_objects
from concertina_operator.cluster.rights import trainer_binding
from concertina_trainer.agent.api_server import Access, ApiServer
from concertina_trainer.agent.membership_watch import MembershipWatch
from concertina_trainer.agent.report_object import ReportObject
from concertina_trainer.agent.retry import Retry
from tests.cluster.api import ApiFailure
from tests.cluster.fixtures import control_plane_of_its_own
from tests.concertina_operator.cluster.installed import GROUP, apply_all, pod_token
from tests.concertina_trainer.agent.clusters import MEMBERSHIPS, REPORTS, ClusterRun
from tests.concertina_trainer.agent.pods import wait_for

FIXTURES = Path(__file__).parents[2] / "fixtures" / "protocol-1"
POD = {
    "metadata": {"name": "tiny-0"},
    "spec": {"serviceAccountName": "default", "containers": [{"name": "trainer", "image": "none"}]},
}


class Namespace:
    """A namespace of the API server with a pod in it, as administrator; has ClusterRun's needs."""

    def __init__(self, cluster, name, folder):
        self.admin = cluster.admin()
        self.name = name
        self.port = urlsplit(cluster.url).port
        apply_all(self.admin, [trainer_binding(name)])
        self.pod = self.admin.create(f"/api/v1/namespaces/{name}/pods", POD)
        self.uid = self.pod["metadata"]["uid"]
        self.credentials = folder / "credentials"
        self.credentials.mkdir()
        roots = self.admin.get(f"/api/v1/namespaces/{name}/configmaps/kube-root-ca.crt")
        self.credentials.joinpath("ca.crt").write_text(roots["data"]["ca.crt"])
        token = pod_token(self.admin, namespace=name, pod=self.pod)
        self.credentials.joinpath("token").write_text(token)

    def path(self, plural, name=""):
        return f"{GROUP}/namespaces/{self.name}/{plural}/{name}".rstrip("/")

    def put(self, plural, document):
        path = self.path(plural, document["metadata"]["name"])
        if self.admin.find(path) is None:
            return self.admin.create(self.path(plural), document)
        return self.admin.patch(path, document)

    def get(self, plural, name):
        return self.admin.find(self.path(plural, name))

    def publish(self, number, **fields):
        membership = TrainingMembership.model_validate({"spec": {"round": number, **fields}})
        document = membership.model_dump(mode="json", by_alias=True)
        return self.put(MEMBERSHIPS, document | {"metadata": {"name": "tiny"}})

    @property
    def access(self):
        return Access(
            host="127.0.0.1",
            port=self.port,
            namespace=self.name,
            credentials=self.credentials,
        )


@pytest.fixture
def lab(resources, namespace, tmp_path):
    made = Namespace(resources, namespace, tmp_path)
    yield made
    made.admin.close()


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def impatient():
    return Retry(first_seconds=0.05, most_seconds=0.2)


def until_round(source, number):
    wait_for(
        lambda: (latest := source.latest()) is not None and latest.round == number,
        lambda: f"round {number}: {source.latest()}",
    )


def test_a_pod_follows_its_membership_from_creation_to_deletion(lab, stack):
    source = MembershipWatch(ApiServer(lab.access), "tiny", retry=impatient())
    stack.callback(source.close)
    lab.publish(3)
    until_round(source, 3)
    lab.publish(4)
    until_round(source, 4)
    late = MembershipWatch(ApiServer(lab.access), "tiny", retry=impatient())
    stack.callback(late.close)
    until_round(late, 4)
    assert not source.gone()

    lab.admin.delete(lab.path(MEMBERSHIPS, "tiny"))

    wait_for(lambda: source.gone() and late.gone(), lambda: "gone")


def test_a_membership_that_waits_for_its_dependents_to_go_is_gone(lab, stack):
    source = MembershipWatch(ApiServer(lab.access), "tiny", retry=impatient())
    stack.callback(source.close)
    lab.publish(1)
    lab.admin.patch(
        lab.path(MEMBERSHIPS, "tiny"), {"metadata": {"finalizers": ["example.com/held"]}}
    )
    until_round(source, 1)

    lab.admin.delete(lab.path(MEMBERSHIPS, "tiny"))

    wait_for(source.gone, lambda: "gone")
    lab.admin.patch(lab.path(MEMBERSHIPS, "tiny"), {"metadata": {"finalizers": None}})


def test_a_version_that_the_server_forgot_ends_a_watch_with_410(lab):
    api = ApiServer(lab.access)
    path = (
        f"{api.path(MEMBERSHIPS)}?watch=1&fieldSelector=metadata.name%3Dtiny"
        "&timeoutSeconds=10&resourceVersion=1"
    )

    with api.watch(path, silence_seconds=30) as stream:
        event = next(iter(stream))

    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)


def test_a_pod_writes_its_report_and_no_other(lab, stack):
    sink = ReportObject(ApiServer(lab.access), retry=impatient())
    stack.callback(sink.close)
    mine = Report(pod="tiny-0", uid=lab.uid, incarnation="a", phase=PodPhase.WARM, port=4000)
    sink.send(mine)
    assert sink.settled(within_seconds=30)
    sink.send(mine.model_copy(update={"port": None, "round": 2}))
    assert sink.settled(within_seconds=30)

    stored = lab.get(REPORTS, "tiny-0")
    assert TrainingReport.model_validate(stored).spec == mine.model_copy(
        update={"port": None, "round": 2}
    )
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "tiny-0", "uid": lab.uid}
    assert stored["metadata"]["ownerReferences"] == [owner]

    sink.send(mine.model_copy(update={"pod": "tiny-1"}))
    assert not sink.settled(within_seconds=0.5)
    assert lab.get(REPORTS, "tiny-1") is None


def test_the_report_of_an_earlier_pod_of_the_name_is_taken_over(lab, stack):
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "tiny-0", "uid": lab.uid}
    old = TrainingReport(spec=Report(pod="tiny-0", uid="u-9", incarnation="z", leaving=True))
    document = old.model_dump(mode="json", by_alias=True, exclude_none=True)
    # The old pod's uid is told, but a living one holds it: the collector would race with the test.
    lab.put(REPORTS, document | {"metadata": {"name": "tiny-0", "ownerReferences": [owner]}})

    sink = ReportObject(ApiServer(lab.access), retry=impatient())
    stack.callback(sink.close)
    mine = Report(pod="tiny-0", uid=lab.uid, incarnation="a")
    sink.send(mine)

    assert sink.settled(within_seconds=30)
    assert TrainingReport.model_validate(lab.get(REPORTS, "tiny-0")).spec == mine


def test_nothing_is_lost_while_the_server_is_away(tmp_path, stack, control_plane):
    if control_plane.layout is None:
        pytest.skip("the API server of a cluster that is not ours is not stopped")
    cluster = stack.enter_context(control_plane_of_its_own())
    admin = cluster.admin()
    apply_all(admin, trainer_objects())
    admin.close()
    lab = Namespace(cluster, "default", tmp_path)
    stack.callback(lab.admin.close)
    api = ApiServer(lab.access, request_seconds=2)
    source = MembershipWatch(api, "tiny", retry=impatient(), silence_seconds=2)
    stack.callback(source.close)
    sink = ReportObject(api, retry=impatient())
    stack.callback(sink.close)
    mine = Report(pod="tiny-0", uid=lab.uid, incarnation="a")
    lab.publish(1)
    until_round(source, 1)
    sink.send(mine)
    assert sink.settled(within_seconds=60)

    for number, (away, back) in enumerate([("freeze", "thaw"), ("stop", "start")], start=2):
        cluster.order("kube-apiserver", away)
        lab.admin.close()  # the next look opens a new connection
        sink.send(mine.model_copy(update={"port": number}))
        assert not sink.settled(within_seconds=3)
        sink.send(mine.model_copy(update={"round": number}))
        cluster.order("kube-apiserver", back)

        assert sink.settled(within_seconds=60)
        stored = lab.get(REPORTS, "tiny-0")
        assert TrainingReport.model_validate(stored).spec.round == number
        lab.publish(number)
        until_round(source, number)
        assert not source.gone()


def test_an_agent_trains_to_the_end_of_its_job(lab, tmp_path, stack):
    run = ClusterRun(tmp_path, stack, lab)
    pod = run.pod("tiny-0", CONCERTINA_UID=lab.uid, CONCERTINA_NAMESPACE=lab.name)
    pod.uid = lab.uid
    pod.warm()
    run.publish(1, pod.member())
    assert pod.trains(1).acknowledged.round == 1
    run.publish(2, intent=Intent.STOP)

    assert pod.exit_code() == 0
    assert pod.report.phase is PodPhase.LEFT


def test_every_recorded_message_is_valid_for_the_server(lab):
    refused = {}
    for path in sorted(FIXTURES.glob("*.json")):
        document = json.loads(path.read_text())
        is_report = document["kind"] == "TrainingReport"
        document["metadata"] = {"name": document["spec"]["pod"] if is_report else "tiny"}
        plural = REPORTS if is_report else MEMBERSHIPS
        try:
            lab.admin.create(lab.path(plural), document, dryRun="All", fieldValidation="Strict")
        except ApiFailure as failure:
            refused[path.name] = str(failure)

    assert refused == {}
