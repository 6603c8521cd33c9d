"""The lower half of the fleet's dashboard: resizes, refusals, and how the operator fares. Pure.

Series of the operator itself are the cluster's; those of jobs are chosen by $namespace.
"""

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import units

from charts.dashboards.fleet_gpus import CHOSEN
from charts.dashboards.panels import Style, bars, chart, query, query_now

_RATE: Final = "[$__rate_interval]"


def resizes(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """What changed, how long that took, and what was refused."""
    made = made.with_row(dashboard.Row("Resizes and refusals"))
    made = made.with_panel(
        chart(
            "Resizes so far",
            query(
                "sum by (direction, reason) (max by (namespace, job, direction, reason)"
                f" (concertina_job_resizes_total{{{CHOSEN}}}))",
                "{{direction}}: {{reason}}",
            ),
            description="Rounds that were acknowledged after the first of their job, of the jobs that"
            " are there, by direction and by what made them. Each step is a resize.",
            unit=units.Number,
            style=Style.STEPS,
            width=6,
        )
    )
    made = made.with_panel(
        bars(
            "Mean time before a resize",
            query_now(_mean_phase('phase=~"gather|finish"'), "{{phase}}"),
            description="Gather: from the decision to the published round, while pods are created and"
            " become warm. Finish: the rest of the last step. Training goes on in both. In the chosen"
            " time.",
            unit=units.Seconds,
            width=6,
        )
    )
    made = made.with_panel(
        bars(
            "Mean pause of a resize, by phase",
            query_now(_mean_phase('phase!~"gather|finish"'), "{{phase}}"),
            description="What training waits for, over all jobs in the chosen time.",
            unit=units.Seconds,
            width=6,
        )
    )
    return made.with_panel(
        chart(
            "Refusals so far",
            query(
                "sum by (kind) (max by (namespace, job, kind)"
                f" (concertina_job_refusals_total{{{CHOSEN}}}))",
                "{{kind}}",
            ),
            query("sum(concertina_operator_reports_refused_total)", "Reports of all jobs"),
            description="What the API server refused for a job (a quota, an admission policy), and"
            " what the operator refused of it, since the operator's start.",
            unit=units.Number,
            style=Style.STEPS,
            width=6,
        )
    )


def operator(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """Latency, queue, results, calls, leader."""
    made = made.with_row(dashboard.Row("Operator"))
    made = made.with_panel(
        chart(
            "Reconcile latency",
            query(_reconcile_quantile("0.5"), "median"),
            query(_reconcile_quantile("0.99"), "99th percentile"),
            description="Time of one reconcile of one job: what is read, decided and written.",
            unit=units.Seconds,
        )
    )
    made = made.with_panel(
        chart(
            "Queue",
            query("max(concertina_operator_queue_depth)", "jobs that wait"),
            query("max(concertina_operator_queue_oldest_seconds)", "longest wait"),
            description="Jobs that wait for a reconcile, and how long the first of them has waited."
            " A queue that grows says that the operator or the API server is too slow.",
            unit=units.Number,
            on_the_right={"longest wait": units.Seconds},
        )
    )
    made = made.with_panel(
        chart(
            "Reconciles",
            query(
                f"sum by (result) (rate(concertina_operator_reconciles_total{_RATE}))", "{{result}}"
            ),
            description="Reconciles by their result. Errors are tried again with growing pauses.",
            unit=units.OpsPerSecond,
            style=Style.STACKED,
        )
    )
    made = made.with_panel(
        chart(
            "API calls",
            query(
                "sum by (verb, status) (rate(concertina_operator_api_calls_total" + _RATE + "))",
                "{{verb}} {{status}}",
            ),
            description="Calls to the API server by verb and status; status 0 had no answer, 429 was"
            " told to wait, 409 lost a race and tries again.",
            unit=units.RequestsPerSecond,
            style=Style.STACKED,
        )
    )
    made = made.with_panel(
        chart(
            "Leader",
            query("max by (pod) (concertina_operator_leader)", "{{pod}}"),
            description="1 for the replica that leads. A change is a failover.",
            unit=units.Number,
            style=Style.STEPS,
        )
    )
    return made.with_panel(
        chart(
            "Pods created and deleted so far",
            query("sum(concertina_operator_pods_created_total)", "created"),
            query("sum(concertina_operator_pods_deleted_total)", "deleted"),
            query("sum(concertina_operator_pods_refused_total)", "refused"),
            description="Pods that the operator created and deleted since its start, and creations"
            " that the API server refused.",
            unit=units.Number,
            style=Style.STEPS,
        )
    )


def _mean_phase(selector: str) -> str:
    """Mean seconds of each of these phases in the chosen time, the longest first."""
    name = "concertina_operator_resize_phase_seconds"
    gained = [
        f"sum by (phase) (increase({name}_{part}{{{selector}}}[$__range]))"
        for part in ("sum", "count")
    ]
    return f"sort_desc({' / '.join(gained)})"


def _reconcile_quantile(quantile: str) -> str:
    rate = f"rate(concertina_operator_reconcile_seconds_bucket{_RATE})"
    return f"histogram_quantile({quantile}, sum by (le) ({rate}))"
