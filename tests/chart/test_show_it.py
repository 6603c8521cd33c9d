"""README's way from a fresh cluster to the pictures of the dashboards, run as it is written.

What the reader brings is brought here: nodes that find the images by their names, a torch in the
trainer's image (mounted into its pods by an admission policy), a Prometheus that follows the chart's
monitors, and its address.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from concertina_operator.cluster import paths
from concertina_operator.cluster.install import NAMESPACE
from concertina_operator.cluster.pod import JOB_LABEL
from concertina_operator.cluster.rights import trainer_binding
from tests.chart.helm import delivery, render
from tests.chart.release import Release, refuse_another, removed
from tests.cluster.api import Api, wait_for
from tests.cluster.cluster import Cluster
from tests.cluster.pods import REPOSITORY
from tests.concertina_operator.cluster.installed import path_of
from tests.images.images import Image, Images, import_image, torch_template
from tests.monitoring.prometheus import started
from tests.monitoring.scrape import scrape_configs

MARK = "<!-- from a fresh cluster"
MONITORS = {
    "monitoring": {name: {"enabled": True} for name in ("operatorMonitor", "trainerMonitor")}
}
JOB = "minimal"
PICTURES = ("fleet.png", "job.png")


PODS = "/api/v1/namespaces/default/pods"
ADMISSION = "admissionregistration.k8s.io/v1"


def block() -> str:
    """The commands of README's section, by the comment before them."""
    section = (REPOSITORY / "README.md").read_text().split("\n## On a cluster\n")[1]
    found = re.search(rf"{re.escape(MARK)}[^\n]*-->\n```sh\n(.*?)```", section, re.DOTALL)
    assert found, f"no block of commands after {MARK}"
    return found[1]


@pytest.fixture
def environment(node_cluster, images, tmp_path):
    """What the reader has: a cluster without Concertina, the programs, and a Prometheus."""
    with closing(node_cluster.admin()) as api:
        refuse_another(api)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "helm").symlink_to(delivery("helm"))
    (programs / "kubectl").symlink_to(node_cluster.kubectl)
    configs = scrape_configs(render(MONITORS), kubeconfig=node_cluster.kubeconfig)
    with (
        _named(node_cluster, images),
        _with_torch(node_cluster, images.trainer),
        removed(Release(node_cluster, NAMESPACE)) as release,
        started(tmp_path / "prometheus", configs) as prometheus,
    ):
        yield {
            **os.environ,
            "HOME": str(tmp_path),
            "KUBECONFIG": str(node_cluster.kubeconfig),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PROMETHEUS": f"http://{prometheus.address}",
            "PYTHONPATH": str(REPOSITORY),
        }
        _delete_job(release.api)


def _delete_job(api: Api) -> None:
    """As long as the garbage collector knows what owns its pods."""
    api.delete(paths.jobs("default", JOB))
    wait_for(
        lambda: not api.list(PODS, labelSelector=f"{JOB_LABEL}={JOB}"), lambda: "its pods stay"
    )
    api.delete(path_of(trainer_binding("default")))


@contextmanager
def _named(cluster: Cluster, images: Images) -> Iterator[None]:
    """The node finds the images by the names of the chart's values and of the manifests."""
    names = [f"docker.io/library/{name}" for name in ("concertina-operator", "concertina-trainer")]
    for image, name in zip((images.operator, images.trainer), names, strict=True):
        import_image(cluster, image)
        tag = image.reference.rpartition(":")[2]
        _ctr(cluster, "tag", "--force", image.reference, f"{name}:{tag}")
    yield


def _ctr(cluster: Cluster, *arguments: str) -> None:
    address = f"--address={cluster.layout.containerd_socket}"
    command = [cluster.layout.binary("ctr"), address, "--namespace=k8s.io", "images", *arguments]
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def _with_torch(cluster: Cluster, trainer: Image) -> Iterator[None]:
    """Every pod whose container is called trainer finds the torch of this machine in its image."""
    spec = torch_template(trainer)["spec"]
    (mount,), (volume,) = spec["containers"][0]["volumeMounts"], spec["volumes"]
    path, host = mount["mountPath"], volume["hostPath"]["path"]
    expression = (
        "Object{spec: Object.spec{"
        "volumes: [Object.spec.volumes{name: 'torch', hostPath:"
        f" Object.spec.volumes.hostPath{{path: '{host}'}}}}],"
        "containers: [Object.spec.containers{name: 'trainer', volumeMounts:"
        " [Object.spec.containers.volumeMounts{name: 'torch', readOnly: true,"
        f" mountPath: '{path}'}}]}}]}}}}"
    )
    name = {"name": "torch-of-the-tests"}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    policy = {
        "apiVersion": ADMISSION,
        "kind": "MutatingAdmissionPolicy",
        "metadata": name,
        "spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": {"resourceRules": [{**rule, "resources": ["pods"]}]},
            "matchConditions": [
                {"name": "trainer", "expression": "object.spec.containers[0].name == 'trainer'"}
            ],
            "mutations": [
                {
                    "patchType": "ApplyConfiguration",
                    "applyConfiguration": {"expression": expression},
                }
            ],
        },
    }
    binding = {
        "apiVersion": ADMISSION,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": name,
        "spec": {"policyName": name["name"]},
    }
    pod = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "trainer", "image": "x"}]}}
    with closing(cluster.admin()) as api:
        for entry in (policy, binding):
            api.create(path_of(entry).rpartition("/")[0], entry)
        # The server learns of policies by watching.
        wait_for(
            lambda: volume["name"] in str(api.create(PODS, pod, dryRun="All")["spec"]["volumes"]),
            lambda: f"{name} changes nothing",
        )
    yield
    with closing(cluster.admin()) as api:
        for entry in (binding, policy):
            api.delete(path_of(entry))


@pytest.fixture
def checkout(tmp_path):
    """A folder in which the paths of the commands lead to this checkout, and new files away from it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("charts", "manifests"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def test_the_commands_are_there_and_are_a_script():
    subprocess.run(["bash", "-n", "-c", block()], check=True)


@pytest.mark.matrix
@pytest.mark.timeout(1200)
def test_the_commands_of_the_readme_lead_to_the_pictures(environment, checkout):
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", block()],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Completed" in done.stdout
    for name in PICTURES:
        assert (checkout / "pictures" / name).read_bytes().startswith(b"\x89PNG")
