"""A release makes what `concertina install` makes, and what is listed here."""

import copy

import pytest

from concertina_operator.cluster.install import NAMESPACE, install_objects, trainer_objects
from tests.chart.helm import CHART, is_hook, key_of, only, render, run_helm

IMAGE = "concertina-operator:0.1.0"
OURS = ("app.kubernetes.io/", "helm.sh/")
BESIDE = {"Service", "FlowSchema", "PriorityLevelConfiguration"}
"""Kinds of which only a release has objects: for scraping, and for a busy API server."""


def plain(entry):
    """The object without what the chart adds to every object and to every pod."""
    entry = copy.deepcopy(entry)
    if entry["kind"] == "Deployment":
        _strip(entry["spec"]["template"]["metadata"])
        (container,) = entry["spec"]["template"]["spec"]["containers"]
        container.pop("env", None)  # the format and the level of the log
        container.pop("imagePullPolicy", None)
    _strip(entry["metadata"])
    return entry


def _strip(metadata):
    for field in ("labels", "annotations"):
        kept = {
            name: value
            for name, value in (metadata.pop(field, None) or {}).items()
            if not name.startswith(OURS)
        }
        if kept:
            metadata[field] = kept


def by_key(objects):
    return {key_of(entry): entry for entry in objects}


@pytest.mark.parametrize(
    ("values", "jobs_in"),
    [
        pytest.param({}, None, id="all namespaces"),
        pytest.param({"watchNamespace": "team"}, "team", id="one namespace"),
    ],
)
def test_a_release_is_the_plain_installation_and_little_more(values, jobs_in):
    release = [entry for entry in render(values) if not is_hook(entry)]
    installed = [
        entry
        for entry in install_objects(image=IMAGE, jobs_in=jobs_in)
        if entry["kind"] != "Namespace"  # `helm install --create-namespace` makes it
    ]
    more = [entry for entry in release if entry["kind"] in BESIDE]

    assert by_key(plain(entry) for entry in release if entry not in more) == by_key(
        plain(entry) for entry in installed
    )


def test_a_deployment_of_the_plain_installation_can_become_one_of_a_release():
    (installed,) = (e for e in install_objects(image=IMAGE) if e["kind"] == "Deployment")

    assert only(render(), "Deployment")["spec"]["selector"] == installed["spec"]["selector"]


def test_the_selector_is_the_same_whatever_the_values_say():
    values = {
        "extraLabels": {"team": "a"},
        "podLabels": {"part": "b"},
        "image": {"tag": "9"},
        "serviceAccount": {"name": "other"},
    }
    deployment = only(render(values, release="other"), "Deployment")["spec"]

    assert deployment["selector"] == only(render(), "Deployment")["spec"]["selector"]
    assert (
        deployment["template"]["metadata"]["labels"].items() >= {"team": "a", "part": "b"}.items()
    )


@pytest.mark.parametrize("jobs_in", [None, "team"])
def test_what_jobs_train_on_outlasts_the_release(jobs_in):
    kept = {
        key_of(entry)
        for entry in render({"watchNamespace": jobs_in or ""})
        if entry["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }

    assert kept == {key_of(entry) for entry in trainer_objects(jobs_in=jobs_in)}


def test_nothing_outlasts_a_release_that_is_told_so():
    objects = render({"crds": {"keep": False}})

    assert not [
        e for e in objects if "helm.sh/resource-policy" in e["metadata"].get("annotations", {})
    ]


def test_a_release_without_what_a_cluster_has_once_lies_in_its_namespaces():
    values = {
        "watchNamespace": "team",
        "crds": {"create": False},
        "clusterResources": {"create": False},
    }

    assert {namespace for _, namespace, _ in map(key_of, render(values))} == {NAMESPACE, "team"}


def test_every_object_says_whose_it_is():
    labels = {"app.kubernetes.io/instance": "mine", "app.kubernetes.io/managed-by": "Helm"}
    values = {"extraLabels": {"team": "a"}}
    want = labels | {"team": "a", "app.kubernetes.io/part-of": "concertina"}

    for entry in render(values, release="mine"):
        assert entry["metadata"]["labels"].items() >= want.items(), key_of(entry)


def test_lint_finds_nothing():
    assert "0 chart(s) failed" in run_helm("lint", "--strict", str(CHART))


def test_hooks_are_the_test_alone():
    hooks = [entry for entry in render() if is_hook(entry)]

    assert {entry["metadata"]["annotations"]["helm.sh/hook"] for entry in hooks} == {"test"}
