"""The custom resource definitions of the job, its membership and its reports.

Called by install.py and by the test that keeps charts/concertina/files/crd.yaml true to the models.
Pure: no I/O, no clock. Schemas come from the models of concertina_api; added here is what only an
API server needs: rules in CEL, printed columns, subresources and names.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from concertina_api.v1alpha1.job import JobSpec
from concertina_api.v1alpha1.membership import Membership
from concertina_api.v1alpha1.report import Report
from concertina_api.v1alpha1.status import JobStatus
from concertina_operator.cluster import paths, rules
from concertina_operator.cluster.openapi import Schema, structural_schema, without_defaults

_AGE: Schema = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
_OPAQUE: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_TEMPLATE: Schema = {
    **_OPAQUE,
    "properties": {
        "metadata": _OPAQUE,
        "spec": {
            **_OPAQUE,
            "properties": {
                "restartPolicy": {"type": "string", "maxLength": 32},
                "containers": {
                    "type": "array",
                    "maxItems": 64,
                    "items": {
                        **_OPAQUE,
                        "required": ["name"],
                        "properties": {
                            "name": {"type": "string", "maxLength": 63},
                            "image": {"type": "string", "maxLength": 1024},
                        },
                    },
                },
            },
        },
    },
}
"""The skeleton of a pod template: what it is made of is checked by a dry run of the built pod."""


def custom_resource_definitions() -> tuple[Schema, Schema, Schema]:
    """The definitions of AdaptiveTrainingJob, TrainingMembership and TrainingReport."""
    # A copy in which no two places are one object: none of them changes with another.
    job, membership, report = json.loads(json.dumps([_job(), _membership(), _report()]))
    return job, membership, report


def _job() -> Schema:
    spec = structural_schema(JobSpec)
    status = without_defaults(structural_schema(JobStatus))
    additions: dict[str, Schema] = {
        "": _checked(rules.SPEC),
        "batch": _checked(rules.BATCH),
        "batch.rule": _checked(rules.BATCH_RULE),
        "batch.shadowRules[]": _checked(rules.BATCH_RULE),
        "training": _checked(rules.TRAINING),
        "pods": _checked(rules.PODS),
        "pods.template": _TEMPLATE,
    }
    for path, addition in additions.items():
        _add(spec, path, addition)
    by_type = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    _add(status, "conditions", by_type)
    # A newer operator may know more conditions than the definition that is installed.
    del _place(status, "conditions[].type")["enum"]
    _add(status, "conditions[].type", {"maxLength": 64, "pattern": "^[A-Za-z][A-Za-z0-9]*$"})
    _keep_unknown_fields(status)
    return _definition(
        "AdaptiveTrainingJob",
        {"spec": spec, "status": status},
        checks=rules.JOB,
        names={"shortNames": ["atj"], "categories": ["all"]},
        columns=(
            _column("State", "string", ".status.state"),
            _column("Ready", "integer", ".status.pods.ready"),
            _column("Wanted", "integer", ".status.pods.wanted"),
            _column("Batch", "integer", ".status.batch.effective"),
            _column("Step", "integer", ".status.progress.step"),
            _column("Noise", "number", ".status.progress.noiseScale"),
            _AGE,
            _column("Workers", "integer", ".status.worldSize", priority=1),
            _column("Round", "integer", ".status.round", priority=1),
            _column("Max", "integer", ".spec.pods.max", priority=1),
        ),
        subresources={
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.pods.max",
                "statusReplicasPath": ".status.pods.running",
                "labelSelectorPath": ".status.selector",
            },
        },
    )


def _membership() -> Schema:
    spec = without_defaults(structural_schema(Membership))
    _add(spec, "", _checked(rules.MEMBERSHIP))
    for members in ("members", "leaving", "lost"):
        keys = ["uid", "incarnation"]
        once = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys}
        _add(spec, members, once)
    return _definition(
        "TrainingMembership",
        {"spec": spec},
        columns=(
            _column("Round", "integer", ".spec.round"),
            _column("Intent", "string", ".spec.intent"),
            _AGE,
        ),
    )


def _report() -> Schema:
    return _definition(
        "TrainingReport",
        {"spec": without_defaults(structural_schema(Report))},
        checks=rules.REPORT,
        columns=(
            _column("Phase", "string", ".spec.phase"),
            _column("Round", "integer", ".spec.round"),
            _column("Step", "integer", ".spec.progress.step"),
            _AGE,
        ),
    )


def _definition(
    kind: str,
    properties: Mapping[str, Schema],
    *,
    columns: Iterable[Schema],
    checks: rules.Rules | None = None,
    names: Mapping[str, Any] | None = None,
    subresources: Mapping[str, Any] | None = None,
) -> Schema:
    """One namespaced definition of one version."""
    singular = kind.lower()
    schema: Schema = {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            **properties,
        },
    }
    version: Schema = {
        "name": paths.VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema | _checked(checks)},
        "additionalPrinterColumns": list(columns),
    }
    if subresources:
        version["subresources"] = dict(subresources)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{singular}s.{paths.GROUP}"},
        "spec": {
            "group": paths.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": f"{singular}s",
                "singular": singular,
                **(names or {}),
            },
            "versions": [version],
        },
    }


def _checked(checks: rules.Rules | None) -> Schema:
    return {"x-kubernetes-validations": checks} if checks else {}


def _column(name: str, kind: str, path: str, *, priority: int = 0) -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path}
    return column | ({"priority": priority} if priority else {})


def _add(schema: Schema, path: str, addition: Mapping[str, Any]) -> None:
    """Put keywords at a place of the schema."""
    _place(schema, path).update(addition)


def _keep_unknown_fields(schema: Schema) -> None:
    """Keep what a newer operator has written when this definition comes back by a rollback.

    Only operators write a status; the API server would else drop the new fields at the next write.
    """
    if "properties" in schema:
        schema["x-kubernetes-preserve-unknown-fields"] = True
    for below in schema.get("properties", {}).values():
        _keep_unknown_fields(below)
    if "items" in schema:
        _keep_unknown_fields(schema["items"])


def _place(schema: Schema, path: str) -> Schema:
    """A place inside the schema: names joined by dots, `[]` for a list's items."""
    place = schema
    for name in path.split(".") if path else ():
        place = place["properties"][name.removesuffix("[]")]
        if name.endswith("[]"):
            place = place["items"]
    return place
