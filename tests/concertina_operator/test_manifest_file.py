"""Reading a manifest file."""

from pathlib import Path

import pytest

from concertina_api.errors import InvalidJob
from concertina_operator.manifest_file import MAX_BYTES, dump_job, load_job

GOOD = """\
apiVersion: concertina.dev/v1alpha1
kind: AdaptiveTrainingJob
metadata: {name: tiny}
spec:
  model: some.module:task
  samples: 400
  batch: {microBatchSize: 4, initial: 8, max: 32}
"""


def test_reads_one_document(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("---\n" + GOOD + "---\n")
    assert load_job(path).spec.batch.max == 32


def test_reads_the_job_among_what_kubectl_applies_with_it(tmp_path: Path) -> None:
    claim = (
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: tiny, labels: {a: 3e-4}}\n"
    )
    path = tmp_path / "job.yaml"
    path.write_text(f"# a comment alone\n---\n{claim}---\n{GOOD}---\n{claim}")
    assert load_job(path).metadata.name == "tiny"


@pytest.mark.parametrize(
    ("written", "want"),
    [
        pytest.param("3e-4", 0.0003, id="no-point"),
        pytest.param("3.0e-4", 0.0003, id="no-sign"),
        pytest.param("1E5", 1e5, id="upper-case"),
        pytest.param("8", 8, id="integer"),
        pytest.param("'3e-4'", "3e-4", id="quoted"),
        pytest.param("3e-4x", "3e-4x", id="text"),
        pytest.param("1.2.3", "1.2.3", id="version"),
    ],
)
def test_numbers_are_those_that_kubectl_reads(
    tmp_path: Path, written: str, want: float | str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD + f"  config: {{value: {written}}}\n")
    job = load_job(path)
    assert job.spec.config["value"] == want
    assert type(job.spec.config["value"]) is type(want)
    path.write_text(dump_job(job))
    assert load_job(path) == job


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD + "  learningRate: {batchLaw: SquareRoot}\n")
    job = load_job(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_job(job))
    assert load_job(copy) == job
    assert "status" not in copy.read_text()


@pytest.mark.parametrize(
    ("content", "want_message"),
    [
        pytest.param("a: [1, 2", "job.yaml:1:9: not valid YAML", id="syntax"),
        pytest.param("a: b: c\n", "job.yaml:1:5: not valid YAML", id="nested-mapping"),
        pytest.param(
            GOOD + "---\n" + GOOD,
            "2 YAML documents (AdaptiveTrainingJob, AdaptiveTrainingJob); exactly one of them",
            id="two-jobs",
        ),
        pytest.param(
            "kind: Secret\n---\n- a\n---\nkind: [x]\n",
            "3 YAML documents (Secret, no kind, no kind); exactly one of them must be",
            id="no-job-among-several",
        ),
        pytest.param("kind: Secret\n", "kind: Input should be", id="another-kind-alone"),
        pytest.param(
            f"{GOOD}---\na: 1\na: 2\n", "'a' appears twice", id="key-twice-beside-the-job"
        ),
        pytest.param("", "0 YAML documents; exactly one of them", id="empty"),
        pytest.param("- a\n", "expected a mapping, got list", id="list"),
        pytest.param(GOOD + "  samples: 8\n", "'samples' appears twice", id="key-twice"),
        pytest.param("a: !!python/object:os.system {}\n", "not valid YAML", id="python-object"),
        pytest.param("a: \x01\n", "not valid YAML", id="control-character"),
        pytest.param("{" * 5000, "not valid YAML", id="too-deep"),
        pytest.param("#" * (MAX_BYTES + 1), "a manifest has at most", id="too-large"),
        pytest.param(GOOD.replace("max:", "maxx:"), "did you mean max", id="misspelt"),
        pytest.param(
            GOOD.replace("initial: 8", "initial: 10"),
            "initial 10 is not a multiple of microBatchSize 4",
            id="batch-not-a-multiple",
        ),
        pytest.param(
            GOOD.replace("initial: 8", "initial: 64"), "initial 64 is above max 32", id="above-max"
        ),
        pytest.param(
            GOOD.replace("microBatchSize: 4", "microBatchSize: 0"),
            "spec.batch.microBatchSize",
            id="micro-batch-0",
        ),
        pytest.param(
            GOOD + "  pods: {min: 1, max: 4, allowed: [8]}\n",
            "allowed [8] has no size up to max 4",
            id="allowed-above-max",
        ),
        pytest.param(
            GOOD.replace("max: 32}", "max: 32, rule: {name: Norm}}"),
            "spec.batch.rule.name",
            id="unknown-rule",
        ),
    ],
)
def test_says_what_is_wrong(content: str, want_message: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(content)
    with pytest.raises(InvalidJob) as caught:
        load_job(path)
    assert want_message in str(caught.value)


def test_says_that_the_file_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match=r"nowhere\.yaml: No such file"):
        load_job(tmp_path / "nowhere.yaml")


def test_says_that_it_is_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="Is a directory"):
        load_job(tmp_path)


def test_refuses_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"a: \xff\xfe\x80\n")
    with pytest.raises(InvalidJob, match="not valid YAML"):
        load_job(path)
