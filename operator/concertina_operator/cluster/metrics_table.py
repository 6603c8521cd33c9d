"""The table of the operator's metrics that code, docs, dashboards and alerts share.

Pure: no I/O, no clock. metrics.py makes the metrics of the process from it, job_samples.py those of
the jobs. Every label has a closed set of values, so that a job has a bounded number of series
whatever its pods report; the leader alone exports series of jobs, so that a sum over replicas is the
fleet's number.
"""

from dataclasses import dataclass
from typing import Final, Literal

OTHER: Final = "Other"
"""Stands for any value of a label that is not in its closed set."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()


_JOB: Final = ("namespace", "job")

PROCESS_METRICS: Final = (
    Metric("concertina_operator_reconcile_seconds", "histogram", "s", "Time of one reconcile."),
    Metric(
        "concertina_operator_reconciles_total",
        "counter",
        "reconciles",
        "Reconciles by result: Done, Deposed or Error.",
        ("result",),
    ),
    Metric(
        "concertina_operator_api_calls_total",
        "counter",
        "calls",
        "Calls to the API server by verb and status; status 0 had no answer.",
        ("verb", "status"),
    ),
    Metric("concertina_operator_pods_created_total", "counter", "pods", "Pods created."),
    Metric("concertina_operator_pods_deleted_total", "counter", "pods", "Pods deleted."),
    Metric(
        "concertina_operator_pods_refused_total",
        "counter",
        "creations",
        "Creations of pods that the server refused.",
    ),
    Metric(
        "concertina_operator_reports_refused_total",
        "counter",
        "reports",
        "Reports that were refused, whole or in part.",
    ),
    Metric(
        "concertina_operator_events_lost_total",
        "counter",
        "events",
        "Events for people that were not posted: too many of a job, or no API server.",
    ),
    Metric(
        "concertina_operator_resize_phase_seconds",
        "histogram",
        "s",
        "Time of each phase of the resizes that this process saw: gather (from the decision to the"
        " published round: pods are created and become warm), finish (to the end of the last step"
        " of the old round), and the parts of the pause as the leader tells them; Other is the rest"
        " of the pause. The sum over phases is the time from the decision to the new round.",
        ("phase",),
    ),
    Metric("concertina_operator_leader", "gauge", "", "1 while this process leads."),
    Metric("concertina_operator_queue_depth", "gauge", "jobs", "Jobs that wait for a reconcile."),
    Metric(
        "concertina_operator_queue_oldest_seconds",
        "gauge",
        "s",
        "How long the job that waits longest has been waiting.",
    ),
    Metric(
        "concertina_operator_reconcile_oldest_seconds",
        "gauge",
        "s",
        "How long the reconcile that takes longest has been running.",
    ),
    Metric("concertina_operator_build_info", "gauge", "", "1, with the version.", ("version",)),
)
"""What every replica exports."""

FLEET_METRICS: Final = (
    Metric(
        "concertina_operator_jobs", "gauge", "jobs", "Jobs that are served, by state.", ("state",)
    ),
)
"""What the leader exports of all jobs together."""

JOB_METRICS: Final = (
    Metric("concertina_job_state", "gauge", "", "1 for the job's present state.", (*_JOB, "state")),
    Metric(
        "concertina_job_condition",
        "gauge",
        "",
        "1 while the condition is True, 0 while it is False; absent before it is known.",
        (*_JOB, "condition"),
    ),
    Metric("concertina_job_pods_wanted", "gauge", "pods", "Pods that the job is to have.", _JOB),
    Metric(
        "concertina_job_pods_ready",
        "gauge",
        "pods",
        "Pods whose workers are warm or train.",
        _JOB,
    ),
    Metric(
        "concertina_job_gpus_held",
        "gauge",
        "GPUs",
        "GPUs of the pods that have a place on a node, one for each worker.",
        _JOB,
    ),
    Metric(
        "concertina_job_gpu_seconds_total",
        "counter",
        "GPU s",
        "GPU seconds held, as far as they were told apart; training: by members of a round that"
        " trains, idle: by any other pod, and by all while no round trains.",
        (*_JOB, "use"),
    ),
    Metric(
        "concertina_job_useful_gpu_seconds",
        "gauge",
        "GPU s",
        "GPU seconds in the steps that led to the present state, as the leader last told them; it falls"
        " when steps are lost.",
        _JOB,
    ),
    Metric(
        "concertina_job_goodput_ratio",
        "gauge",
        "",
        "The share of those in the GPU seconds that the job has held since it was created; absent"
        " before it held any.",
        _JOB,
    ),
    Metric("concertina_job_samples", "gauge", "samples", "Samples that are trained.", _JOB),
    Metric(
        "concertina_job_samples_target",
        "gauge",
        "samples",
        "Samples of the whole run; absent when it has no end.",
        _JOB,
    ),
    Metric(
        "concertina_job_batch_requested_samples",
        "gauge",
        "samples",
        "Global batch of the newest accepted request.",
        _JOB,
    ),
    Metric(
        "concertina_job_failures_total",
        "counter",
        "failures",
        "Failures that counted against backoffLimit, since the job was created.",
        _JOB,
    ),
    Metric(
        "concertina_job_infrastructure_failures_total",
        "counter",
        "failures",
        "Failures that nobody's code had caused and that do not count, since the job was created.",
        _JOB,
    ),
    Metric(
        "concertina_job_recoveries_total",
        "counter",
        "recoveries",
        "Losses of pods that training has survived, since the job was created.",
        _JOB,
    ),
    Metric(
        "concertina_job_steps_lost_total",
        "counter",
        "steps",
        "Steps that had been done and were run again after them.",
        _JOB,
    ),
    Metric(
        "concertina_job_avoided_nodes",
        "gauge",
        "nodes",
        "Nodes that new pods of the job avoid now, because pods were lost on them again and again.",
        _JOB,
    ),
    Metric(
        "concertina_job_snapshot_age_steps",
        "gauge",
        "steps",
        "Steps since the newest snapshot that all workers hold, as last told; absent while none are"
        " taken.",
        _JOB,
    ),
    Metric(
        "concertina_job_resizes_total",
        "counter",
        "resizes",
        "Acknowledged rounds after the first, since the job was created, by direction (Grow,"
        " Shrink, Replace) and the reason of the round.",
        (*_JOB, "direction", "reason"),
    ),
    Metric(
        "concertina_job_resizing_seconds",
        "gauge",
        "s",
        "How long a round has been open without a break; 0 while none is.",
        _JOB,
    ),
    Metric(
        "concertina_job_refusals_total",
        "counter",
        "refusals",
        "What was refused of or for the job, as this process saw it: Pod, Membership, RoleBinding"
        " (by the API server), Template, Job, Report (by the operator).",
        (*_JOB, "kind"),
    ),
    Metric(
        "concertina_job_last_report_age_seconds",
        "gauge",
        "s",
        "Time since any pod of the job reported, as this process heard it; absent before the first.",
        _JOB,
    ),
)
"""What the leader exports of each job, until the job is deleted."""

METRICS: Final = PROCESS_METRICS + FLEET_METRICS + JOB_METRICS
"""Every metric of the operator, beside the process_* of the Prometheus client."""
