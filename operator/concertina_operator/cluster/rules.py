"""The checks across fields that the API server makes itself, as CEL. Called by crd.py.

Pure data. Each rule repeats a check of the models in concertina_api, in the same words, or forbids
a change that a running job could not follow. The API server evaluates them only on objects whose
every single field is valid. It refuses rules whose cost it cannot bound, and it loses the bound of
a list or a text in `?.orValue()` and in string(): hence `has` and `format`.
"""

from typing import Any

Rules = list[dict[str, Any]]

MAX_JOB_NAME = 52
"""Characters of a job's name: pods are called `<job>-<n>`, and a pod's name is a host name of 63."""

_FIXED = (
    "model",
    "config",
    "samples",
    "epochs",
    "seed",
    "batch.microBatchSize",
    "batch.initial",
    "batch.max",
    "batch.rule",
    "batch.shadowRules",
    "learningRate",
    "training",
    "checkpoint.path",
    "pods.workersPerPod",
)
"""Fields of the spec that decide what is computed: every pod of a job must have the same.

Into free-form objects these rules look only as far as both have the same keys: a `config` in which
a key was only renamed is left to a policy (policies.py).
"""
STARTED = "{0}.?status.?round.orValue(0) > 0 || {0}.?status.?pods.?wanted.orValue(0) > 0"
"""Whether the job of this name in CEL has started."""
_MISFIT = "stage, stage.batch % self.microBatchSize != 0 || stage.batch > self.max"


def _rule(
    rule: str,
    message: str,
    *,
    words: str | None = None,
    numbers: str | None = None,
    field: str | None = None,
) -> dict[str, Any]:
    """One rule. `words` are the message with gaps for `numbers` (CEL), `field` is what to blame."""
    entry = {"rule": rule, "message": message}
    if words is not None:
        entry["messageExpression"] = f'"{words}".format([{numbers}])'
    if field is not None:
        entry["fieldPath"] = f".{field}"
    return entry


def _unchanged(path: str, *, inside: str = "") -> str:
    new, old = f"self{inside}.{path}", f"oldSelf{inside}.{path}"
    return f"has({new}) == has({old}) && (!has({new}) || {new} == {old})"


def _fixed(path: str) -> dict[str, Any]:
    return _rule(
        f"!({STARTED.format('oldSelf')}) || {_unchanged(path, inside='.spec')}",
        f"{path} is fixed once the job has started",
        field=f"spec.{path}",
    )


def _multiple(field: str) -> dict[str, Any]:
    return _rule(
        f"self.{field} % self.microBatchSize == 0",
        f"{field} is not a multiple of microBatchSize",
        words=f"{field} %d is not a multiple of microBatchSize %d",
        numbers=f"self.{field}, self.microBatchSize",
        field=field,
    )


def _knob(knob: str, *, owner: str, none: str = "") -> dict[str, Any]:
    """`none`: a value that says no more than leaving the knob out."""
    given = f"self.{knob} == {none} || " if none else ""
    return _rule(
        f"!has(self.{knob}) || {given}self.name == '{owner}'",
        f"{knob} belongs to rule {owner}",
        words=f"{knob} belongs to rule {owner}, not to %s",
        numbers="self.name",
        field=knob,
    )


JOB: Rules = [
    _rule(
        f"size(self.metadata.name) <= {MAX_JOB_NAME}"
        " && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        f"the name of a job has at most {MAX_JOB_NAME} characters: lower-case letters, digits, -",
        words=f"the name of a job has at most {MAX_JOB_NAME} characters: lower-case letters,"
        " digits, -; this one has %d: %s",
        numbers="size(self.metadata.name), self.metadata.name",
    ),
    *(_fixed(path) for path in _FIXED),
]

SPEC: Rules = [
    _rule("has(self.samples) != has(self.epochs)", "give exactly one of samples and epochs"),
    _rule(_unchanged("managedBy"), "managedBy never changes", field="managedBy"),
    _rule(
        "!has(self.training) || !has(self.training.rollBackAfter)"
        " || !has(self.snapshots) || !has(self.snapshots.mode) || self.snapshots.mode != 'Off'",
        "training.rollBackAfter needs snapshots, and snapshots.mode is Off",
        field="training.rollBackAfter",
    ),
]

BATCH: Rules = [
    _multiple("initial"),
    _multiple("max"),
    _rule(
        "self.initial <= self.max",
        "initial is above max",
        words="initial %d is above max %d",
        numbers="self.initial, self.max",
        field="initial",
    ),
    _rule(
        f"!has(self.rule) || !has(self.rule.stages) || !self.rule.stages.exists({_MISFIT})",
        "a stage's batch is a multiple of microBatchSize up to max",
        words="stage batch %d is not a multiple of microBatchSize %d up to max %d",
        numbers=f"self.rule.stages.filter({_MISFIT})[0].batch, self.microBatchSize, self.max",
        field="rule",
    ),
    _rule(
        "!has(self.shadowRules) || !self.shadowRules.exists(one,"
        f" has(one.stages) && one.stages.exists({_MISFIT}))",
        "a stage's batch is a multiple of microBatchSize up to max",
        words="a stage's batch is not a multiple of microBatchSize %d up to max %d",
        numbers="self.microBatchSize, self.max",
        field="shadowRules",
    ),
]

BATCH_RULE: Rules = [
    _knob("eta", owner="NormTest"),
    _knob("fraction", owner="NoiseScale"),
    _knob("stages", owner="Ramp", none="[]"),
    _rule(
        "self.name != 'Ramp' || has(self.stages) && size(self.stages) > 0",
        "rule Ramp needs at least one stage",
    ),
    _rule(
        "!has(self.stages) || self.stages.map(stage, stage.samples).isSorted()"
        " && self.stages.all(one, self.stages.exists_one(other, other.samples == one.samples))",
        "stages must have rising samples",
        words="stages must have rising samples, got %s",
        numbers="self.stages.map(stage, stage.samples)",
        field="stages",
    ),
]

TRAINING: Rules = [
    _rule(
        "!has(self.rollBackAfter) || self.rollBackAfter <= self.maxSkippedSteps",
        "rollBackAfter is above maxSkippedSteps",
        words="rollBackAfter %d is above maxSkippedSteps %d",
        numbers="self.rollBackAfter, self.maxSkippedSteps",
        field="rollBackAfter",
    ),
]

PODS: Rules = [
    _rule(
        "self.min <= self.max",
        "min is above max",
        words="min %d is above max %d",
        numbers="self.min, self.max",
        field="min",
    ),
    _rule(
        "!has(self.allowed) || self.allowed.all(size, size >= self.min)",
        "allowed holds sizes below min",
        words="allowed %s lies below min %d",
        numbers="self.allowed.filter(size, size < self.min), self.min",
        field="allowed",
    ),
    _rule(
        "!has(self.allowed) || size(self.allowed) == 0"
        " || self.allowed.exists(size, size <= self.max)",
        "allowed has no size up to max",
        words="allowed %s has no size up to max %d",
        numbers="self.allowed, self.max",
        field="allowed",
    ),
]

MEMBERSHIP: Rules = [
    _rule(
        "self.round >= oldSelf.round",
        "a round never falls",
        words="round %d is below %d: a round never falls",
        numbers="self.round, oldSelf.round",
        field="round",
    ),
]

REPORT: Rules = [
    _rule(
        "self.spec.pod == self.metadata.name",
        "a report is named like its pod",
        words="a report is named like its pod: %s is not %s",
        numbers="self.metadata.name, self.spec.pod",
        field="spec.pod",
    ),
]
