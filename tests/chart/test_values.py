"""Every value is explained, is in the README, and is what the schema knows; others are refused."""

import json
import tomllib

import pytest
import yaml

from charts import values as tables
from tests.chart.helm import CHART, VALUES, HelmFailure, manifest, render_file

TEXT = (CHART / "values.yaml").read_text()
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
OF_KUBERNETES = {"resources", "podSecurityContext", "securityContext", "affinity"}
"""Values that are one here, and whose fields Kubernetes explains."""


def fields(schema, *path):
    """Dotted names of the values that the schema knows."""
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    if "properties" not in schema or OF_KUBERNETES & set(path):
        yield ".".join(path)
        return
    for name, inner in schema["properties"].items():
        yield from fields(inner, *path, name)


def open_maps(schema, place="values"):
    """Places where a map with named fields lets others in."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("additionalProperties", True) is not False:
            yield place
        for name, inner in schema.items():
            yield from open_maps(inner, f"{place}.{name}")


def test_every_value_is_explained():
    assert [value.key for value in tables.values(TEXT) if not value.comment.endswith(".")] == []


def test_the_table_of_the_readme_is_what_the_comments_say():
    """Made anew by `python -m charts.values`."""
    readme = tables.README.read_text()

    assert tables.with_table(readme, tables.table(tables.values(TEXT))) == readme


def test_a_comment_of_several_lines_is_one_and_a_map_may_have_its_own():
    text = "# Not of a value.\na:\n  # -- One\n  # two.\n  b: 1\n# -- Three.\nc: {d: [x]}\n"

    assert tables.values(text) == (
        tables.Value(key="a.b", default=1, comment="One two."),
        tables.Value(key="c", default={"d": ["x"]}, comment="Three."),
    )


def test_the_schema_knows_the_values_and_no_others():
    # Helm hands `global` to a chart that is part of another one.
    assert set(fields(SCHEMA)) - {"global"} == {value.key for value in tables.values(TEXT)}


def test_the_schema_lets_no_unknown_field_in():
    assert list(open_maps(SCHEMA)) == []


def test_chart_and_package_have_one_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    package = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]

    assert {chart["version"], chart["appVersion"]} == {package["version"]}
    assert chart["description"] == package["description"]


@pytest.mark.parametrize("path", sorted(VALUES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_of_values_is_taken(path):
    assert render_file(path)


@pytest.mark.parametrize(
    ("values", "want_message"),
    [
        pytest.param("replica: 2", "additional properties 'replica' not allowed", id="top"),
        pytest.param(
            "image: {name: x}", "at '/image': additional properties 'name' not allowed", id="inner"
        ),
        pytest.param(
            "monitoring: {rules: {enable: true}}",
            "at '/monitoring/rules': additional properties 'enable' not allowed",
            id="deep",
        ),
        pytest.param(
            "tolerations: [{keys: x}]",
            "at '/tolerations/0': additional properties 'keys' not allowed",
            id="in a list",
        ),
        pytest.param(
            "resources: {request: {}}",
            "at '/resources': additional properties 'request' not allowed",
            id="of Kubernetes",
        ),
        pytest.param('replicas: "2"', "at '/replicas': got string, want integer", id="text"),
        pytest.param("replicas: 0", "minimum: got 0, want 1", id="too few"),
        pytest.param(
            "logFormat: xml", "at '/logFormat': value must be one of 'json', 'text'", id="choice"
        ),
        pytest.param("image: {digest: latest}", "at '/image/digest'", id="no digest"),
        pytest.param("watchNamespace: Team", "at '/watchNamespace'", id="no namespace"),
        pytest.param("watchNamespace: [a, b]", "got array, want string", id="several namespaces"),
        pytest.param(
            "extraLabels: {app.kubernetes.io/name: x}",
            "label app.kubernetes.io/name is the chart's own",
            id="label of a selector",
        ),
        pytest.param("networkPolicies: {apiServer: {cidrs: [10.0.0.1]}}", "cidrs/0", id="no range"),
        pytest.param(
            "metrics: {authentication: {enabled: true}}",
            "metrics.authentication.secretName must name the Secret with the token",
            id="token from nowhere",
        ),
        pytest.param(
            "networkPolicies: {jobs: {enabled: true}}",
            "networkPolicies.jobs.namespaces must list those to fence",
            id="fence around nothing",
        ),
        pytest.param(
            "serviceAccount: {create: false}",
            "serviceAccount.name must name the one to use",
            id="no account",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(values, want_message):
    with pytest.raises(HelmFailure) as caught:
        manifest(values)

    assert want_message in str(caught.value)


def test_a_cluster_that_is_too_old_is_refused():
    with pytest.raises(HelmFailure, match=r"requires kubeVersion: >=1\.30"):
        manifest("{}", kube_version="1.29.0")
