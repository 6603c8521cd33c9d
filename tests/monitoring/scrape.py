"""What a Prometheus scrapes for the chart's monitors. Pure; called by whoever starts one.

The Prometheus Operator turns a PodMonitor or a ServiceMonitor into a scrape configuration. It is no
part of the tests' cluster, so the same is done here, for the fields that the chart uses: what is
scraped is what the chart says. A field that is not known here is refused, not passed over.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

KINDS = {"PodMonitor": "pod", "ServiceMonitor": "service"}
ENDPOINTS = {"PodMonitor": "podMetricsEndpoints", "ServiceMonitor": "endpoints"}
LIMITS = {
    "sampleLimit": "sample_limit",
    "labelLimit": "label_limit",
    "labelValueLengthLimit": "label_value_length_limit",
    "bodySizeLimit": "body_size_limit",
}
SPEC_FIELDS = {"jobLabel", "selector", "namespaceSelector", *ENDPOINTS.values(), *LIMITS}
ENDPOINT_FIELDS = {
    "port",
    "path",
    "scheme",
    "interval",
    "scrapeTimeout",
    "honorLabels",
    "relabelings",
    "metricRelabelings",
    "authorization",
    "tlsConfig",
}
RELABELING_FIELDS = {
    "action": "action",
    "regex": "regex",
    "sourceLabels": "source_labels",
    "targetLabel": "target_label",
    "replacement": "replacement",
    "separator": "separator",
}


def scrape_configs(
    objects: Iterable[Mapping[str, Any]], *, kubeconfig: Path, token: str | None = None
) -> list[dict[str, Any]]:
    """A scrape configuration for each endpoint of the monitors among these objects.

    `token` stands for what the Secret holds that a monitor names; certificates are not verified.
    """
    found = []
    for monitor in objects:
        kind = monitor["kind"]
        if kind in KINDS:
            _refuse_unknown(monitor["spec"], SPEC_FIELDS)
            for number, endpoint in enumerate(monitor["spec"][ENDPOINTS[kind]]):
                _refuse_unknown(endpoint, ENDPOINT_FIELDS)
                found.append(_scrape_config(monitor, endpoint, number, kubeconfig, token))
    return found


def static_config(address: str, *, namespace: str, job: str, **more: Any) -> dict[str, Any]:
    """A scrape configuration of a process outside the cluster, with the labels of a pod in it."""
    labels = {"namespace": namespace, "job": job, "pod": job}
    target = {"targets": [address], "labels": labels}
    return {"job_name": f"static/{job}", "static_configs": [target], "honor_labels": True, **more}


def _scrape_config(
    monitor: Mapping[str, Any],
    endpoint: Mapping[str, Any],
    number: int,
    kubeconfig: Path,
    token: str | None,
) -> dict[str, Any]:
    namespace, name = monitor["metadata"]["namespace"], monitor["metadata"]["name"]
    kind = monitor["kind"]
    made: dict[str, Any] = {
        "job_name": f"{kind}/{namespace}/{name}/{number}",
        "metrics_path": endpoint.get("path", "/metrics"),
        "scheme": str(endpoint.get("scheme", "http")).lower(),
        "honor_labels": endpoint.get("honorLabels", False),
        "kubernetes_sd_configs": [_discovery(monitor, kubeconfig)],
        "relabel_configs": [
            *_selected(monitor),
            *_port(kind, endpoint["port"]),
            *_labels(monitor, endpoint["port"]),
            *_relabelings(endpoint.get("relabelings", ())),
        ],
        "metric_relabel_configs": _relabelings(endpoint.get("metricRelabelings", ())),
    }
    made |= {
        option: monitor["spec"][field]
        for field, option in LIMITS.items()
        if field in monitor["spec"]
    }
    if "authorization" in endpoint:
        assert token is not None, f"{name} reads a token from a Secret: {endpoint}"
        made["authorization"] = {"type": "Bearer", "credentials": token}
    if "tlsConfig" in endpoint:
        made["tls_config"] = {"insecure_skip_verify": True}
    return made


def _discovery(monitor: Mapping[str, Any], kubeconfig: Path) -> dict[str, Any]:
    role = {"PodMonitor": "pod", "ServiceMonitor": "endpointslice"}[monitor["kind"]]
    chosen = monitor["spec"].get("namespaceSelector", {})
    names = chosen.get("matchNames", [monitor["metadata"]["namespace"]])
    everywhere = chosen.get("any", False)
    return {
        "role": role,
        "kubeconfig_file": str(kubeconfig),
        **({} if everywhere else {"namespaces": {"names": list(names)}}),
    }


def _selected(monitor: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Keep the targets whose labels the selector names, and of pods those that have not ended."""
    selector, object_name = monitor["spec"]["selector"], KINDS[monitor["kind"]]
    rules = []
    if object_name == "pod":
        phase = ["__meta_kubernetes_pod_phase"]
        rules.append({"action": "drop", "source_labels": phase, "regex": "(Failed|Succeeded)"})
    for label, value in selector.get("matchLabels", {}).items():
        rules.append(_keep(_meta(object_name, "label", label), value))
    for entry in selector.get("matchExpressions", ()):
        assert entry["operator"] == "Exists", f"not known here: {entry}"
        rules.append(_keep(_meta(object_name, "labelpresent", entry["key"]), "true"))
    return rules


def _port(kind: str, port: str) -> list[dict[str, Any]]:
    if kind == "PodMonitor":
        return [_keep("__meta_kubernetes_pod_container_port_name", port)]
    return [_keep("__meta_kubernetes_endpointslice_port_name", port)]


def _labels(monitor: Mapping[str, Any], port: str) -> list[dict[str, Any]]:
    """The labels that every target of a monitor has; `job` is told by the monitor's jobLabel."""
    namespace, name = monitor["metadata"]["namespace"], monitor["metadata"]["name"]
    rules = [
        _copied("__meta_kubernetes_namespace", "namespace"),
        _copied("__meta_kubernetes_pod_container_name", "container"),
        _copied("__meta_kubernetes_pod_name", "pod"),
        {"target_label": "job", "replacement": f"{namespace}/{name}"},
    ]
    if label := monitor["spec"].get("jobLabel"):
        rules.append(
            {**_copied(_meta(KINDS[monitor["kind"]], "label", label), "job"), "regex": "(.+)"}
        )
    return [*rules, {"target_label": "endpoint", "replacement": port}]


def _relabelings(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    made = []
    for entry in entries:
        _refuse_unknown(entry, set(RELABELING_FIELDS))
        made.append({RELABELING_FIELDS[name]: value for name, value in entry.items()})
    return made


def _keep(label: str, regex: str) -> dict[str, Any]:
    return {"action": "keep", "source_labels": [label], "regex": regex}


def _copied(label: str, target: str) -> dict[str, Any]:
    return {"source_labels": [label], "target_label": target}


def _meta(object_name: str, what: str, label: str) -> str:
    """Prometheus' name for a label of a Kubernetes object."""
    tail = "".join(letter if letter.isalnum() else "_" for letter in label)
    return f"__meta_kubernetes_{object_name}_{what}_{tail}"


def _refuse_unknown(entry: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(entry) - known)
    assert not unknown, f"the test does not know {unknown} of\n{yaml.safe_dump(dict(entry))}"
