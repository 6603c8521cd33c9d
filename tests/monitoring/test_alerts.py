"""The alerts as the chart has them: each fires when it should, and somebody knows what to do then."""

import subprocess

import pytest
import yaml

from tests.cluster.pods import REPOSITORY
from tests.monitoring.expressions import names, problems
from tests.monitoring.prometheus import built
from tests.monitoring.rules import ALERTS, alerts, duration_seconds, read_rules, shortened

CASES = REPOSITORY / "tests/monitoring/alerts_test.yaml"
RUNBOOKS = REPOSITORY / "docs/pages/runbooks"
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
WANTED = {
    "ConcertinaCheckpointTooOld",
    "ConcertinaGoodputLow",
    "ConcertinaJobFailing",
    "ConcertinaNoProgress",
    "ConcertinaNoiseEstimateMissing",
    "ConcertinaOperatorDown",
    "ConcertinaOperatorStalled",
    "ConcertinaPodFlapping",
    "ConcertinaPodsPending",
    "ConcertinaResizeStuck",
    "ConcertinaSnapshotsFailing",
}

each_rule = pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, id="-".join((rule["alert"], *rule["labels"].values())))
        for rule in alerts(read_rules())
    ],
)
each_alert = pytest.mark.parametrize("name", sorted(WANTED))


def test_there_are_the_alerts_that_the_docs_name():
    assert {rule["alert"] for rule in alerts(read_rules())} == WANTED


def test_promtool_finds_nothing_wrong_with_the_rules():
    _promtool("check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))


def test_each_alert_fires_when_it_should_and_not_when_it_should_not():
    _promtool("test", "rules", str(CASES))


@each_rule
def test_each_rule_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(rule):
    cases = [
        case
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == rule["alert"]
    ]
    fires = [
        entry["exp_labels"]
        for case in cases
        for entry in case.get("exp_alerts", ())
        if rule["labels"].items() <= entry["exp_labels"].items()
    ]
    assert fires
    assert any(not case.get("exp_alerts") for case in cases)


@each_rule
def test_each_rule_names_metrics_and_labels_that_are_exported(rule):
    assert problems(rule["expr"]) == []


@each_rule
def test_each_rule_says_how_bad_it_is_in_words_with_its_runbook(rule):
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"].endswith(f"/runbooks/{rule['alert']}/")


def test_there_is_a_runbook_for_each_alert_and_no_other():
    assert {path.stem for path in RUNBOOKS.glob("Concertina*.md")} == WANTED


@each_alert
def test_each_runbook_has_what_is_needed_at_night(name):
    text = (RUNBOOKS / f"{name}.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [f"# {name}", *(f"## {heading}" for heading in HEADINGS)]
    diagnosis = text.split("## Diagnosis")[1].split("## Mitigation")[0]
    assert "```sh\n" in diagnosis


@each_rule
def test_each_runbook_quotes_the_rule_as_it_is(rule):
    text = (RUNBOOKS / f"{rule['alert']}.md").read_text()
    quoted = [block.split("```")[0].split() for block in text.split("```promql\n")[1:]]
    assert rule["expr"].split() in quoted
    assert f"`{rule.get('for', '0s')}`" in text, "how long it waits until it fires"
    assert f"`{rule['labels']['severity']}`" in text


@each_alert
def test_each_runbook_names_metrics_and_labels_that_are_exported(name):
    text = (RUNBOOKS / f"{name}.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```promql\n")[1:]]
    found = {block: problems(block) for block in [*blocks, *names(text)]}
    assert {block: wrong for block, wrong in found.items() if wrong} == {}


def test_a_shortened_rule_keeps_its_expression_and_its_labels():
    rules, short = read_rules(), shortened(read_rules(), seconds=5)
    for rule, brief in zip(alerts(rules), alerts(short), strict=True):
        assert {**rule, "for": None} == {**brief, "for": None}
        assert duration_seconds(brief.get("for", "0s")) <= 5


def _promtool(*arguments):
    done = subprocess.run(
        [str(built("promtool")), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
