"""What the operator and the pods may do, tried with their own tokens on a real API server."""

from contextlib import closing

import pytest

from concertina_operator.cluster.install import operator_objects
from concertina_operator.cluster.policies import MAX_METADATA
from concertina_operator.cluster.rights import OPERATOR, TRAINER, trainer_binding, trainer_rights
from tests.cluster.api import Api, ApiFailure, wait_for
from tests.concertina_operator.cluster.installed import (
    GROUP,
    a_report,
    apply_all,
    as_token,
    pod_token,
)
from tests.concertina_operator.cluster.jobs import a_job

RBAC = "/apis/rbac.authorization.k8s.io/v1"


def a_pod(name):
    container = {"name": "trainer", "image": "imagined"}
    return {"metadata": {"name": name}, "spec": {"containers": [container]}}


def refused(attempt, *arguments, **options):
    """The words of the refusal."""
    with pytest.raises(ApiFailure) as caught:
        attempt(*arguments, **options)
    assert caught.value.status == 403
    return caught.value.message


def rights_of(api, namespace):
    """(resource, verb) of this API group and of everything that is not for everybody."""
    review = api.create(
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {"spec": {"namespace": namespace}}
    )
    assert not review["status"]["incomplete"]
    everybody = {"authorization.k8s.io", "authentication.k8s.io"}
    return {
        (resource, verb)
        for rule in review["status"]["resourceRules"]
        if not everybody & set(rule["apiGroups"])
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


class TestTrainer:
    """Pods tiny-lm-0 and tiny-lm-1, and the token of the former."""

    @pytest.fixture
    def pods(self, api, namespace):
        apply_all(api, [trainer_binding(namespace)])
        path = f"/api/v1/namespaces/{namespace}/pods"
        return [api.create(path, a_pod(f"tiny-lm-{index}")) for index in range(2)]

    @pytest.fixture
    def reports(self, namespace):
        return f"{GROUP}/namespaces/{namespace}/trainingreports"

    @pytest.fixture
    def memberships(self, namespace):
        return f"{GROUP}/namespaces/{namespace}/trainingmemberships"

    @pytest.fixture
    def trainer(self, resources, api, namespace, pods, tmp_path):
        token = pod_token(api, namespace=namespace, pod=pods[0])
        with closing(as_token(resources, token, tmp_path / "trainer")) as connection:
            yield connection

    @pytest.fixture
    def report(self, pods):
        """The report of tiny-lm-0 as it should be."""
        return a_report("tiny-lm-0", uid=pods[0]["metadata"]["uid"])

    def test_writes_and_reads_its_own_report(self, trainer, reports, report):
        trainer.create(reports, report)
        trainer.patch(f"{reports}/tiny-lm-0", {"spec": {"phase": "Warm"}})

        assert trainer.get(f"{reports}/tiny-lm-0")["spec"]["phase"] == "Warm"

    def test_takes_over_the_report_of_an_earlier_pod(self, api, trainer, reports, report):
        left = a_report("tiny-lm-0", uid="of-the-earlier-pod")
        del left["metadata"]["ownerReferences"]  # the garbage collector would take it with its pod
        api.create(reports, left)
        owners = report["metadata"]["ownerReferences"]
        taken = {"metadata": {"ownerReferences": owners}, "spec": report["spec"]}
        trainer.patch(f"{reports}/tiny-lm-0", taken)

        assert trainer.get(f"{reports}/tiny-lm-0")["spec"]["uid"] == report["spec"]["uid"]

    def test_writes_no_report_of_another_pod(self, api, trainer, pods, reports):
        other = a_report("tiny-lm-1", uid=pods[1]["metadata"]["uid"])
        want = "a pod writes only its own report: this is tiny-lm-1, the token is of tiny-lm-0"

        assert want in refused(trainer.create, reports, other)
        api.create(reports, other)
        change = {"spec": {"phase": "Finished", "finished": True}}
        assert want in refused(trainer.patch, f"{reports}/tiny-lm-1", change)
        assert "finished" not in api.get(f"{reports}/tiny-lm-1")["spec"]

    def test_labels_of_somebody_else_do_not_stop_it(self, api, trainer, reports, report):
        trainer.create(reports, report)
        of_a_team = {"metadata": {"labels": {"team": "a"}, "annotations": {"note": "x" * 1000}}}
        api.patch(f"{reports}/tiny-lm-0", of_a_team, fieldManager="somebody")
        trainer.patch(f"{reports}/tiny-lm-0", {"spec": {"phase": "Warm"}})

        assert api.get(f"{reports}/tiny-lm-0")["spec"]["phase"] == "Warm"

    @pytest.mark.parametrize("field", ["labels", "annotations", "managedFields"])
    def test_its_report_stays_small_in_what_no_schema_bounds(self, trainer, reports, report, field):
        (manager,) = trainer.create(reports, report)["metadata"]["managedFields"]
        many = {f"{'x' * 50}{number}": "" for number in range(1000)}
        fat = {
            "labels": many,
            "annotations": {"x": "x" * 200_000},
            # An entry that claims fields which the report does not have.
            "managedFields": [{**manager, "fieldsV1": {f"f:{name}": {} for name in many}}],
        }
        path, change = f"{reports}/tiny-lm-0", {"metadata": {field: fat[field]}}
        want = f"the metadata of a report has at most {MAX_METADATA} characters: this one has "

        assert want in refused(trainer.patch, path, change)

    @pytest.mark.parametrize(
        ("change", "want_message"),
        [
            pytest.param(
                {"metadata": {"finalizers": ["example.com/stay"]}}, "a report has no finalizers",
                id="finalizer",
            ),
            pytest.param(
                {"metadata": {"ownerReferences": None}}, "a report is owned by its pod alone",
                id="no owner",
            ),
            pytest.param(
                {"metadata": {"ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]}},
                "a report is owned by its pod alone", id="foreign owner",
            ),
            pytest.param(
                {"spec": {"uid": "of-another-pod"}},
                "a report tells the uid of the pod that writes it", id="uid",
            ),
        ],
    )  # fmt: skip
    def test_puts_nothing_into_its_report_that_is_not_its_own(
        self, trainer, reports, report, change, want_message
    ):
        wrong = {
            **report,
            "metadata": report["metadata"] | change.get("metadata", {}),
            "spec": report["spec"] | change.get("spec", {}),
        }
        assert want_message in refused(trainer.create, reports, wrong)
        trainer.create(reports, report)
        assert want_message in refused(trainer.patch, f"{reports}/tiny-lm-0", change)

    def test_a_token_of_no_pod_writes_no_report(
        self, resources, namespace, reports, report, tmp_path
    ):
        kubeconfig = resources.service_account_kubeconfig(
            tmp_path / "no-pod", namespace=namespace, name="default"
        )
        text = resources.run_kubectl(
            "auth", "can-i", "create", "trainingreports", "-n", namespace, kubeconfig=kubeconfig
        ).stdout
        assert text.strip() == "yes"
        with closing(Api(kubeconfig)) as stranger:
            assert "the token is of no pod" in refused(stranger.create, reports, report)

    def test_reads_memberships_and_writes_none(self, api, trainer, memberships):
        membership = {
            "apiVersion": "concertina.dev/v1alpha1",
            "kind": "TrainingMembership",
            "metadata": {"name": "tiny-lm"},
            "spec": {"round": 1},
        }
        refused(trainer.create, memberships, membership)
        stored = api.create(memberships, membership)
        assert trainer.get(f"{memberships}/tiny-lm")["spec"]["round"] == 1
        refused(trainer.patch, f"{memberships}/tiny-lm", {"spec": {"round": 9}})
        refused(trainer.call, "PUT", f"{memberships}/tiny-lm", stored)
        refused(trainer.delete, f"{memberships}/tiny-lm")
        refused(trainer.list, memberships)

    def test_has_no_other_right_in_its_namespace(self, trainer, namespace):
        assert rights_of(trainer, namespace) == {
            ("trainingmemberships", "get"),
            ("trainingmemberships", "watch"),
            ("trainingreports", "create"),
            ("trainingreports", "get"),
            ("trainingreports", "patch"),
        }

    def test_has_no_right_elsewhere(self, trainer, report):
        assert rights_of(trainer, "default") == set()
        for path in (
            "/api/v1/nodes",
            "/api/v1/secrets",
            "/api/v1/namespaces/default/pods",
            f"{GROUP}/adaptivetrainingjobs",
            f"{GROUP}/trainingreports",
        ):
            refused(trainer.list, path)
        refused(trainer.create, f"{GROUP}/namespaces/default/trainingreports", report)

    @pytest.fixture
    def collector(self, api, reports):
        """The garbage collector knows reports, which takes it half a minute in a new cluster."""
        api.create(reports, a_report("orphan", uid="of-no-pod"))
        api.wait_gone(f"{reports}/orphan", seconds=120)

    @pytest.mark.usefixtures("collector")
    def test_its_report_never_holds_its_pod_back(self, api, trainer, namespace, reports, report):
        trainer.create(reports, report)
        pod = f"/api/v1/namespaces/{namespace}/pods/tiny-lm-0"
        api.delete(pod, propagationPolicy="Orphan")
        api.wait_gone(pod)

        # A collector that had not heard of the report yet finds its owner gone, and deletes it.
        left = api.find(f"{reports}/tiny-lm-0")
        assert left is None or "ownerReferences" not in left["metadata"]

    @pytest.mark.usefixtures("collector")
    def test_its_report_goes_with_its_pod(self, api, trainer, namespace, reports, report):
        trainer.create(reports, report)
        api.delete(f"/api/v1/namespaces/{namespace}/pods/tiny-lm-0")
        api.wait_gone(f"{reports}/tiny-lm-0")


class TestOperator:
    """The rights of the operator of a whole cluster, and of one that serves one namespace."""

    @pytest.fixture
    def connection(self, resources, api, namespace, tmp_path):
        """Connects as the operator that runs in `namespace` and serves `jobs_in`."""
        made, connections = [], []

        def connect(jobs_in):
            objects = operator_objects(image="imagined", namespace=namespace, jobs_in=jobs_in)
            made.extend(entry for entry in objects if entry["kind"].startswith("Cluster"))
            apply_all(api, [entry for entry in objects if entry["kind"] != "Deployment"])
            kubeconfig = resources.service_account_kubeconfig(
                tmp_path / "operator", namespace=namespace, name=OPERATOR
            )
            connections.append(Api(kubeconfig))
            return connections[-1]

        yield connect
        for operator in connections:
            operator.close()
        for entry in made:
            api.delete(f"{RBAC}/{entry['kind'].lower()}s/{entry['metadata']['name']}")

    def test_of_a_cluster_has_these_rights_everywhere(self, connection):
        operator = connection(None)

        assert rights_of(operator, "default") == {
            *(("adaptivetrainingjobs", verb) for verb in ("get", "list", "watch", "delete")),
            ("adaptivetrainingjobs/status", "patch"),
            *(("trainingmemberships", verb) for verb in ("list", "watch", "create", "update")),
            *(("trainingreports", verb) for verb in ("list", "watch")),
            *(("pods", verb) for verb in ("get", "list", "watch", "create", "delete")),
            ("events", "create"),
            ("rolebindings", "create"),
            ("clusterroles", "bind"),
        }

    def test_of_a_cluster_hands_out_the_rights_of_a_trainer_and_no_others(
        self, connection, namespace
    ):
        operator, path = connection(None), f"{RBAC}/namespaces/{namespace}/rolebindings"
        binding = trainer_binding(namespace)
        operator.create(path, binding)
        for number, role in enumerate(("cluster-admin", "system:aggregate-to-edit", "system:node")):
            other = {
                **binding,
                "metadata": {"name": f"more-{number}"},
                "roleRef": {**binding["roleRef"], "name": role},
            }
            refused(operator.create, path, other)
        refused(operator.create, f"{RBAC}/clusterrolebindings", {
            **binding, "kind": "ClusterRoleBinding", "metadata": {"name": "everywhere"},
        })  # fmt: skip

    def test_of_one_namespace_has_rights_there_alone(self, api, connection, namespace):
        operator = connection(namespace)
        path = f"{GROUP}/namespaces/{namespace}/adaptivetrainingjobs"
        stored = api.create(path, a_job())

        assert rights_of(operator, "default") == set()
        assert ("rolebindings", "create") not in rights_of(operator, namespace)
        assert operator.list(path)[0]["metadata"]["name"] == "tiny-lm"
        refused(operator.list, f"{GROUP}/adaptivetrainingjobs")
        operator.patch(f"{path}/tiny-lm/status", {"status": {"state": "Running"}})
        refused(operator.patch, f"{path}/tiny-lm", {"metadata": {"finalizers": ["x/y"]}})
        refused(operator.call, "PUT", f"{path}/tiny-lm", stored)

    def test_takes_its_own_lease_alone(self, api, connection, namespace):
        operator = connection(namespace)
        path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        for name in (OPERATOR, "of-somebody-else"):
            api.create(path, {"metadata": {"name": name}})
        operator.call("PUT", f"{path}/{OPERATOR}", operator.get(f"{path}/{OPERATOR}"))
        refused(operator.get, f"{path}/of-somebody-else")
        refused(operator.delete, f"{path}/{OPERATOR}")

    def test_reads_no_secret_and_makes_no_account(self, connection, namespace):
        operator = connection(None)
        for plural in ("secrets", "configmaps", "serviceaccounts"):
            refused(operator.list, f"/api/v1/namespaces/{namespace}/{plural}")
        refused(operator.list, f"{RBAC}/clusterroles")
        refused(operator.get, f"{RBAC}/clusterroles/{TRAINER}")


class TestPeople:
    """Accounts that the administrator of a cluster gave the rights of a role of Kubernetes."""

    @pytest.fixture
    def rights(self, resources, api, namespace, tmp_path):
        """What an account with the role may do here with the resources of jobs."""

        def of(role):
            account = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
            api.create(
                f"{RBAC}/namespaces/{namespace}/rolebindings",
                {
                    "metadata": {"name": role},
                    "roleRef": {
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": "ClusterRole",
                        "name": role,
                    },
                    "subjects": [account],
                },
            )
            kubeconfig = resources.service_account_kubeconfig(
                tmp_path / role, namespace=namespace, name="default"
            )

            def found():
                with closing(Api(kubeconfig)) as person:
                    return {
                        (resource, verb)
                        for resource, verb in rights_of(person, namespace)
                        if resource.startswith(("adaptivetrainingjobs", "training"))
                    }

            # A controller adds the rights to the role.
            wait_for(found, lambda: f"{role} has none of our rights")
            return found()

        return of

    READ = {
        (resource, verb)
        for resource in (
            "adaptivetrainingjobs",
            "adaptivetrainingjobs/scale",
            "trainingmemberships",
            "trainingreports",
        )
        for verb in ("get", "list", "watch")
    }
    WRITE = {
        *(
            ("adaptivetrainingjobs", verb)
            for verb in ("create", "update", "patch", "delete", "deletecollection")
        ),
        *(("adaptivetrainingjobs/scale", verb) for verb in ("update", "patch")),
    }

    def test_who_views_a_namespace_reads_its_jobs(self, rights):
        assert rights("view") == self.READ

    @pytest.mark.parametrize("role", ["edit", "admin"])
    def test_who_edits_a_namespace_writes_its_jobs_alone(self, rights, role):
        assert rights(role) == self.READ | self.WRITE


def test_an_installation_for_one_namespace_binds_the_rights_of_its_trainers():
    assert trainer_rights(jobs_in="team")[1:] == [trainer_binding("team")]
    assert len(trainer_rights(jobs_in=None)) == 1
