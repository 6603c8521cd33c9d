"""The dashboard of all jobs: who trains, what their GPUs do, how the operator fares. Pure.

Series of jobs are chosen by $namespace; those of the operator are the cluster's.
"""

from typing import Final

from grafana_foundation_sdk.builders import dashboard, table
from grafana_foundation_sdk.models import units

from charts.dashboards.fleet_gpus import CHOSEN, gpu_seconds, gpus, of_jobs, recovery
from charts.dashboards.fleet_operator import operator, resizes
from charts.dashboards.frame import FLEET_UID, JOB_UID, frame, namespaces
from charts.dashboards.looks import BLUE, GREEN, ORANGE, RED, TEXT, YELLOW
from charts.dashboards.panels import (
    Style,
    chart,
    number,
    query,
    query_now,
    query_rows,
    rows,
)

_TROUBLED: Final = "Failed|BackingOff|Incompatible|NameTaken|TemplateInvalid|WaitingForGrant"
"""States in which a job does not train, and will not by itself soon."""
_STATE_COLORS: Final = {
    "Training": GREEN,
    "Resizing": BLUE,
    "Starting": YELLOW,
    "Recovering": ORANGE,
    "BackingOff": ORANGE,
    "WaitingForGrant": ORANGE,
    "Failed": RED,
    "Completed": TEXT,
}
"""The rest takes what is left of the palette."""


def fleet() -> dashboard.Dashboard:
    """All of it, row by row."""
    made = frame(
        "Concertina / Fleet",
        uid=FLEET_UID,
        description="All training jobs of a cluster, the GPUs that they hold, and their operator.",
    )
    made = made.with_variable(
        namespaces().multi(True).include_all(True).all_value(".+")  # noqa: FBT003 - the SDK's
    )
    for add in (_now, _jobs, gpus, recovery, resizes, operator):
        made = add(made)
    return made


def _now(made: dashboard.Dashboard) -> dashboard.Dashboard:
    made = made.with_row(dashboard.Row("Now"))
    made = made.with_panel(
        number(
            "Operator leads",
            query("min(max by (namespace) (concertina_operator_leader)) or vector(0)"),
            description="Whether a replica of the operator leads, of every operator if there are"
            " several. Jobs train on without one; nothing is resized, nothing that fails is mended.",
            unit=units.Number,
            words={1: ("Yes", GREEN), 0: ("No", RED)},
        )
    )
    made = made.with_panel(
        number(
            "Jobs that train",
            query(f"count({_states('Training|Resizing')}) or vector(0)"),
            description="Jobs whose workers take steps, those in the middle of a resize included.",
            unit=units.Number,
        )
    )
    made = made.with_panel(
        number(
            "Jobs in trouble",
            query(f"count({_states(_TROUBLED)}) or vector(0)"),
            description="Jobs that do not train and will not by themselves soon: failed, backing off,"
            " refused, or waiting for a grant. The table below names them.",
            unit=units.Number,
            steps=[(1, RED)],
        )
    )
    made = made.with_panel(
        number(
            "Pods missing",
            query(f"sum({_missing()}) or vector(0)"),
            description="Pods that jobs are to have and that are not warm yet: created, scheduled,"
            " pulling their image or loading.",
            unit=units.Number,
            steps=[(1, ORANGE)],
        )
    )
    made = made.with_panel(
        number(
            "GPUs held",
            query(f"sum({of_jobs('concertina_job_gpus_held')}) or vector(0)"),
            description="GPUs of pods that have a place on a node, whether they train or not.",
            unit=units.Number,
        )
    )
    made = made.with_panel(
        number(
            "GPU time that trains",
            query_now(f"sum({gpu_seconds('training')}) / sum({gpu_seconds('.+')})"),
            description="Share of the GPU time of the chosen time that was spent in rounds that train;"
            " the rest was held idle: waiting for other pods, for a round, or for the end.",
            unit=units.PercentUnit,
            decimals=1,
        )
    )
    made = made.with_panel(
        number(
            "GPU hours",
            query_now(f"sum({gpu_seconds('.+')}) / 3600"),
            description="GPU hours that jobs held in the chosen time.",
            unit=units.Number,
            decimals=2,
        )
    )
    return made.with_panel(
        number(
            "Alerts that fire",
            query('count(ALERTS{alertname=~"Concertina.+", alertstate="firing"}) or vector(0)'),
            description="Alerts of Concertina that fire now; each has a runbook.",
            unit=units.Number,
            steps=[(1, RED)],
        )
    )


def _jobs(made: dashboard.Dashboard) -> dashboard.Dashboard:
    made = made.with_row(dashboard.Row("Jobs")).with_panel(_table())
    made = made.with_panel(
        chart(
            "Jobs by state",
            query(f"count by (state) ({_states('.+')})", "{{state}}"),
            description="How many jobs are in each state; the metrics' page says what each means.",
            unit=units.Number,
            style=Style.STACKED,
            colors=_STATE_COLORS,
        )
    )
    made = made.with_panel(
        chart(
            "Pods",
            query(f"sum({of_jobs('concertina_job_pods_wanted')})", "wanted"),
            query(f"sum({of_jobs('concertina_job_pods_ready')})", "ready"),
            description="Pods that all jobs are to have, and those whose workers are warm or train.",
            unit=units.Number,
            style=Style.STEPS,
        )
    )
    return made.with_panel(
        chart(
            "Failures so far",
            query(
                f"sum by (namespace) ({of_jobs('concertina_job_failures_total')})",
                "{{namespace}}",
            ),
            description="Failures that counted against backoffLimit, of the jobs that are there, by"
            " namespace. Each step is a failure.",
            unit=units.Number,
            style=Style.STEPS,
        )
    )


def _table() -> table.Panel:
    target = of_jobs("concertina_job_samples_target")
    return rows(
        "All jobs",
        {
            "Pods ready": query_rows(of_jobs("concertina_job_pods_ready")),
            "Pods wanted": query_rows(of_jobs("concertina_job_pods_wanted")),
            "GPUs": query_rows(of_jobs("concertina_job_gpus_held")),
            "Batch": query_rows(of_jobs("concertina_job_batch_requested_samples")),
            "Done": query_rows(f"{of_jobs('concertina_job_samples')} / {target}"),
            "Goodput": query_rows(of_jobs("concertina_job_goodput_ratio")),
            "GPU hours": query_rows(
                f"sum by (namespace, job) (concertina_job_gpu_seconds_total{{{CHOSEN}}}) / 3600"
            ),
            "Failures": query_rows(of_jobs("concertina_job_failures_total")),
            "In that state": query_rows(_states(".+")),
        },
        description="Every job of the chosen namespaces; a job's name opens its own dashboard.",
        labels={"namespace": "Namespace", "job": "Job", "state": "State"},
        units={
            "Done": units.PercentUnit,
            "Goodput": units.PercentUnit,
            "GPU hours": units.Short,
        },
        hidden=["In that state"],
        links={
            "Job": f"/d/{JOB_UID}?var-datasource=${{datasource}}&var-namespace=${{__data.fields.Namespace}}"
            "&var-job=${__value.text}&${__url_time_range}"
        },
    )


def _states(pattern: str) -> str:
    """A series for each job that is in one of these states."""
    return (
        "max by (namespace, job, state)"
        f' (concertina_job_state{{{CHOSEN}, state=~"{pattern}"}} == 1)'
    )


def _missing() -> str:
    """Pods that each job still waits for."""
    wanted, ready = of_jobs("concertina_job_pods_wanted"), of_jobs("concertina_job_pods_ready")
    return f"clamp_min({wanted} - {ready}, 0)"
