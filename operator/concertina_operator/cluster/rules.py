"""The checks across fields that the API server makes itself, as CEL. Called by crd.py.

Pure data. Each rule repeats a check of the models in concertina_api, in the same words where CEL can
say them, or forbids a change that a running job could not follow. The API server evaluates them
only on objects whose every single field is valid.
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
"""Fields of the spec that decide what is computed: every pod of a job must have the same."""
_STARTED = "oldSelf.?status.?round.orValue(0) > 0 || oldSelf.?status.?pods.?wanted.orValue(0) > 0"


def _rule(
    rule: str, message: str, *, expression: str | None = None, field: str | None = None
) -> dict[str, Any]:
    """One rule; `expression` is CEL that says the message with its numbers, `field` what to blame."""
    entry = {"rule": rule, "message": message}
    if expression is not None:
        entry["messageExpression"] = expression
    if field is not None:
        entry["fieldPath"] = f".{field}"
    return entry


def _fixed(path: str) -> dict[str, Any]:
    optional = path.replace(".", ".?")
    return _rule(
        f"!({_STARTED}) || self.spec.?{optional} == oldSelf.spec.?{optional}",
        f"{path} is fixed once the job has started",
        field=f"spec.{path}",
    )


def _multiple(field: str) -> dict[str, Any]:
    return _rule(
        f"self.{field} % self.microBatchSize == 0",
        f"{field} is not a multiple of microBatchSize",
        expression=f"'{field} ' + string(self.{field})"
        " + ' is not a multiple of microBatchSize ' + string(self.microBatchSize)",
        field=field,
    )


def _knob(knob: str, *, owner: str) -> dict[str, Any]:
    return _rule(
        f"!has(self.{knob}) || self.name == '{owner}'",
        f"{knob} belongs to rule {owner}",
        expression=f"'{knob} belongs to rule {owner}, not to ' + self.name",
        field=knob,
    )


def _stages_fit(stages: str) -> dict[str, Any]:
    return _rule(
        f"{stages}.all(stage, stage.batch % self.microBatchSize == 0 && stage.batch <= self.max)",
        "a stage's batch is a multiple of microBatchSize up to max",
        expression=f"'stage batch ' + {stages}.filter(stage,"
        " stage.batch % self.microBatchSize != 0 || stage.batch > self.max)"
        ".map(stage, string(stage.batch)).join(', ')"
        " + ' is not a multiple of microBatchSize ' + string(self.microBatchSize)"
        " + ' up to max ' + string(self.max)",
    )


JOB: Rules = [
    _rule(
        f"size(self.metadata.name) <= {MAX_JOB_NAME}"
        " && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        f"the name of a job has at most {MAX_JOB_NAME} characters, lower-case letters, digits and '-'",
        expression=f"'the name of a job has at most {MAX_JOB_NAME} characters, lower-case letters,"
        " digits and \"-\"; this one has ' + string(size(self.metadata.name)) + ': '"
        " + self.metadata.name",
    ),
    *(_fixed(path) for path in _FIXED),
]

SPEC: Rules = [
    _rule("has(self.samples) != has(self.epochs)", "give exactly one of samples and epochs"),
    _rule("self.?managedBy == oldSelf.?managedBy", "managedBy never changes", field="managedBy"),
]

BATCH: Rules = [
    _multiple("initial"),
    _multiple("max"),
    _rule(
        "self.initial <= self.max",
        "initial is above max",
        expression="'initial ' + string(self.initial) + ' is above max ' + string(self.max)",
        field="initial",
    ),
    _stages_fit("self.?rule.?stages.orValue([])"),
]

BATCH_RULE: Rules = [
    _knob("eta", owner="NormTest"),
    _knob("fraction", owner="NoiseScale"),
    _knob("stages", owner="Ramp"),
    _rule(
        "self.name != 'Ramp' || self.?stages.orValue([]).size() > 0",
        "rule Ramp needs at least one stage",
    ),
    _rule(
        "!has(self.stages) || self.stages.map(stage, stage.samples).isSorted()"
        " && self.stages.all(one, self.stages.exists_one(other, other.samples == one.samples))",
        "stages must have rising samples",
        expression="'stages must have rising samples, got ['"
        " + self.stages.map(stage, string(stage.samples)).join(', ') + ']'",
        field="stages",
    ),
]

PODS: Rules = [
    _rule(
        "self.min <= self.max",
        "min is above max",
        expression="'min ' + string(self.min) + ' is above max ' + string(self.max)",
        field="min",
    ),
    _rule(
        "!has(self.allowed) || self.allowed.all(size, size >= self.min)",
        "allowed holds sizes below min",
        expression="'allowed [' + self.allowed.filter(size, size < self.min)"
        ".map(size, string(size)).join(', ') + '] lies below min ' + string(self.min)",
        field="allowed",
    ),
    _rule(
        "!has(self.allowed) || size(self.allowed) == 0"
        " || self.allowed.exists(size, size <= self.max)",
        "allowed has no size up to max",
        expression="'allowed [' + self.allowed.map(size, string(size)).join(', ')"
        " + '] has no size up to max ' + string(self.max)",
        field="allowed",
    ),
]

MEMBERSHIP: Rules = [
    _rule(
        "self.round >= oldSelf.round",
        "round never falls",
        expression="'round ' + string(self.round) + ' is below ' + string(oldSelf.round)"
        " + ': a round never falls'",
        field="round",
    ),
]

REPORT: Rules = [
    _rule(
        "self.spec.pod == self.metadata.name",
        "a report is named like its pod",
        expression="'a report is named like its pod: ' + self.metadata.name"
        " + ' is not ' + self.spec.pod",
        field="spec.pod",
    ),
]
