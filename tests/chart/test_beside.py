"""A release for jobs that somebody serves already is refused before anything is made."""

import pytest
import yaml

from concertina_operator.cluster.rights import TRAINER, trainer_binding
from tests.chart.helm import CHART, HelmFailure, of_kind, run_helm
from tests.concertina_operator.cluster.installed import apply_all, path_of


def bindings(made, namespace):
    """Names of the RoleBindings of a namespace that Helm would make, but those of the test."""
    _, _, text = made.partition("MANIFEST:\n")
    manifest, _, _ = text.partition("NOTES:")
    objects = [entry for entry in yaml.safe_load_all(manifest) if entry]
    return {
        entry["metadata"]["name"]
        for entry in of_kind(objects, "RoleBinding")
        if entry["metadata"]["namespace"] == namespace
    }


class TestBesideAnotherOperator:
    """A release for the same jobs is refused before anything is made."""

    NAMESPACED = (
        *("--set", "crds.create=false", "--set", "clusterResources.create=false"),
        *("--set", "serviceAccount.create=false"),
        *("--set", "serviceAccount.name=concertina-operator"),
    )

    @pytest.fixture
    def install(self, server):
        """`helm install`, up to the point where it would change something."""

        def run(*arguments):
            return run_helm(
                *(
                    "install",
                    "mine",
                    str(CHART),
                    "--namespace",
                    server.namespace,
                    "--dry-run=server",
                ),
                *arguments,
                kubeconfig=server.cluster.kubeconfig,
            )

        return run

    @pytest.fixture
    def put(self, server):
        """Makes an object; it goes in the end."""
        made = []

        def make(entry):
            apply_all(server.api, [entry])
            made.append(path_of(entry))

        yield make
        for path in made:
            server.api.delete(path)

    @pytest.fixture
    def role(self, put):
        """Makes a role like that of an operator."""

        def make(kind, *, release=None, **metadata):
            annotations = {}
            if release is not None:
                namespace, _, name = release.partition("/")
                annotations["meta.helm.sh/release-namespace"] = namespace
                annotations["meta.helm.sh/release-name"] = name
            put(
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": kind,
                    "metadata": {
                        "name": "concertina-operator",
                        "annotations": annotations,
                        "labels": {"app.kubernetes.io/managed-by": "Helm"},
                        **metadata,
                    },
                }
            )

        return make

    def test_of_all_namespaces_is_none_for_one_of_them(self, install, role):
        role("ClusterRole", release="elsewhere/first")
        with pytest.raises(HelmFailure) as caught:
            install("--set", "watchNamespace=team-a", *self.NAMESPACED)

        want = "serves all namespaces of this cluster already, team-a too"
        assert want in str(caught.value)
        assert "ClusterRole concertina-operator is of release elsewhere/first" in str(caught.value)

    def test_of_one_namespace_is_none_for_all(self, install, role):
        role("Role", namespace="team-b")
        with pytest.raises(
            HelmFailure, match="an operator serves the jobs of namespace "
        ) as caught:
            install("--set", "crds.create=false")

        assert "of no release of Helm. Uninstall it first" in str(caught.value)

    def test_is_not_looked_for_when_that_is_said(self, install, role):
        role("ClusterRole", release="elsewhere/first")

        assert "Deployment" in install(
            *("--set", "watchNamespace=team-a", "--set", "checkOtherOperators=false"),
            *self.NAMESPACED,
        )

    def test_of_another_namespace_stands_one_of_this(self, install, role):
        role("Role", namespace="team-b", release="team-b/second")

        assert "Deployment" in install("--set", "watchNamespace=team-a", *self.NAMESPACED)

    def test_of_the_same_release_may_change_whom_it_serves(self, server, install, role, put):
        """Its operator has bound the trainers of each namespace that it served: that stays."""
        role("ClusterRole", release=f"{server.namespace}/mine")
        put(trainer_binding("team-a"))
        made = install("--set", "watchNamespace=team-a", *self.NAMESPACED)

        assert bindings(made, "team-a") == {"concertina-operator"}

    def test_that_never_was_has_bound_no_trainers(self, install):
        made = install("--set", "watchNamespace=team-a", *self.NAMESPACED)

        assert bindings(made, "team-a") == {"concertina-operator", TRAINER}

    def test_of_the_same_namespace_is_refused_by_helm(self, install, role):
        role("Role", namespace="team-a", release="team-a/first")
        with pytest.raises(HelmFailure, match='must equal "mine": current value is "first"'):
            install("--set", "watchNamespace=team-a", *self.NAMESPACED)

    def test_installed_without_helm_is_refused_by_helm_unless_it_is_taken_over(self, install):
        arguments = ("--set", "watchNamespace=team-a")
        with pytest.raises(HelmFailure, match="invalid ownership metadata") as caught:
            install(*arguments, "--set", "serviceAccount.name=new")

        assert 'CustomResourceDefinition "adaptivetrainingjobs.concertina.dev"' in str(caught.value)
        taken = install(*arguments, "--set", "serviceAccount.name=new", "--take-ownership")
        assert "CustomResourceDefinition" in taken

    def test_with_another_priority_is_refused_since_none_can_be_changed(self, server, install):
        path = "/apis/scheduling.k8s.io/v1/priorityclasses"
        server.api.create(path, {"metadata": {"name": "mine"}, "value": 7})
        created = ("--set", "priorityClass.create=true,priorityClass.name=mine")
        with pytest.raises(HelmFailure, match="PriorityClass mine has 7") as caught:
            install("--set", "watchNamespace=team-a", *created, *self.NAMESPACED)
        server.api.delete(f"{path}/mine")

        assert "priorityClass.value is 1000000" in str(caught.value)
