"""What the chart's monitors make a Prometheus scrape, and how its series are labelled."""

import re
from pathlib import Path

import pytest

from concertina_operator.cluster import metrics as operator
from concertina_operator.cluster.install import NAMESPACE
from concertina_operator.cluster.rights import OPERATOR
from concertina_trainer.agent import metrics as trainer
from tests.chart.helm import render
from tests.monitoring.scrape import scrape_configs

BOTH = {"monitoring": {"operatorMonitor": {"enabled": True}, "trainerMonitor": {"enabled": True}}}


@pytest.fixture(scope="module")
def configs():
    made = scrape_configs(render(BOTH), kubeconfig=Path("kubeconfig"))
    return {config["job_name"].split("/")[0]: config for config in made}


def test_the_job_of_a_trainer_is_its_training_job(configs):
    relabeled = {
        rule["target_label"]: rule.get("source_labels")
        for rule in configs["PodMonitor"]["relabel_configs"]
        if "target_label" in rule
    }
    assert relabeled["job"] == ["__meta_kubernetes_pod_label_concertina_dev_job"]
    assert relabeled["namespace"] == ["__meta_kubernetes_namespace"]


def test_a_trainer_cannot_speak_for_another_job(configs):
    """What it says of itself becomes exported_*, and is dropped."""
    assert not configs["PodMonitor"]["honor_labels"]
    assert {"action": "labeldrop", "regex": "exported_(namespace|job|pod)"} in configs[
        "PodMonitor"
    ]["metric_relabel_configs"]


def test_a_trainer_is_heard_under_its_own_names_alone(configs):
    rules = configs["PodMonitor"]["metric_relabel_configs"]

    def is_kept(name):
        named = (rule for rule in rules if rule.get("source_labels") == ["__name__"])
        return all(
            bool(re.fullmatch(rule["regex"], name)) == (rule["action"] == "keep") for rule in named
        )

    assert [metric.name for metric in trainer.METRICS if not is_kept(metric.name)] == []
    assert [metric.name for metric in operator.METRICS if is_kept(metric.name)] == []
    assert not is_kept("node_cpu_seconds_total")


def test_what_a_trainer_may_say_is_bounded_above_what_one_says(configs):
    limits = configs["PodMonitor"]

    assert 4 * len(trainer.METRICS) < limits["sample_limit"] <= 1000
    assert limits["body_size_limit"] == "1MiB"
    assert {"label_limit", "label_value_length_limit"} <= limits.keys()
    assert not {"sample_limit", "body_size_limit"} & configs["ServiceMonitor"].keys()


def test_trainers_are_found_in_all_namespaces_and_the_operator_in_its_own(configs):
    (trainers,) = configs["PodMonitor"]["kubernetes_sd_configs"]
    (operators,) = configs["ServiceMonitor"]["kubernetes_sd_configs"]
    assert "namespaces" not in trainers
    assert operators["namespaces"] == {"names": [NAMESPACE]}


def test_the_operator_may_speak_for_every_job(configs):
    assert configs["ServiceMonitor"]["honor_labels"]
    selected = {
        rule["regex"]: rule["source_labels"]
        for rule in configs["ServiceMonitor"]["relabel_configs"]
        if rule.get("action") == "keep"
    }
    assert selected[OPERATOR] == ["__meta_kubernetes_service_label_app_kubernetes_io_name"]


def test_a_field_that_would_be_passed_over_is_refused():
    (monitor,) = (entry for entry in render(BOTH) if entry["kind"] == "PodMonitor")
    changed = {**monitor, "spec": {**monitor["spec"], "targetLimit": 100}}
    with pytest.raises(AssertionError, match="targetLimit"):
        scrape_configs([changed], kubeconfig=Path("kubeconfig"))
