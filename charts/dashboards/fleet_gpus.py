"""The parts of the fleet's dashboard about what GPUs do, and about what is lost. Pure."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import units

from charts.dashboards.panels import Style, bars, chart, query, query_now

CHOSEN: Final = 'namespace=~"$namespace"'
_RANGE: Final = "[$__range]"
_RATE: Final = "[$__rate_interval]"


def gpus(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """Held, used, by whom."""
    used = f'concertina_job_gpu_seconds_total{{{CHOSEN}, use="training"}}'
    made = made.with_row(dashboard.Row("GPUs"))
    made = made.with_panel(
        chart(
            "GPUs held against used",
            query(f"sum({of_jobs('concertina_job_gpus_held')})", "held"),
            query(f"sum(rate({used}{_RATE}))", "used"),
            description="GPUs that pods hold, and how many of them were in a round that trains, as an"
            " average over the interval.",
            unit=units.Number,
            width=12,
        )
    )
    return made.with_panel(
        bars(
            "GPU hours by namespace",
            query_now(_gpu_hours("training"), "{{namespace}}, training"),
            query_now(_gpu_hours("idle"), "{{namespace}}, idle"),
            description="GPU hours of the chosen time, those in rounds that train and those held idle.",
            unit=units.Number,
            decimals=2,
            width=12,
        )
    )


def recovery(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """Goodput, losses, what is avoided."""
    lost = "concertina_job_recoveries_total"
    made = made.with_row(dashboard.Row("Failures and recovery"))
    made = made.with_panel(
        bars(
            "Goodput by job",
            query_now(f"sort({of_jobs('concertina_job_goodput_ratio')})", "{{namespace}}/{{job}}"),
            description="Share of the GPU time held since the job was created that was spent in steps"
            " that counted, the lowest first.",
            unit=units.PercentUnit,
            decimals=1,
        )
    )
    made = made.with_panel(
        chart(
            "Losses within an hour",
            query(
                f"{of_jobs(lost)} - min by (namespace, job) (min_over_time({lost}{{{CHOSEN}}}[1h]))",
                "{{namespace}}/{{job}}",
            ),
            description="Losses of pods that each job has survived within the hour before. From three on"
            " the job flaps.",
            unit=units.Number,
            style=Style.STEPS,
        )
    )
    return made.with_panel(
        chart(
            "Losses so far",
            query(f"sum({of_jobs(lost)})", "losses"),
            query(f"sum({of_jobs('concertina_job_steps_lost_total')})", "steps run again"),
            query(
                f"sum({of_jobs('concertina_job_infrastructure_failures_total')})",
                "failures of infrastructure",
            ),
            query(f"sum({of_jobs('concertina_job_avoided_nodes')})", "nodes avoided"),
            description="Of the jobs that are there: losses of pods that training survived, steps that"
            " had to be run again, failures that nobody's code had caused, and nodes that jobs avoid.",
            unit=units.Number,
            style=Style.STEPS,
        )
    )


def of_jobs(metric: str) -> str:
    """A gauge of each job, whichever replica of the operator exports it."""
    return f"max by (namespace, job) ({metric}{{{CHOSEN}}})"


def gpu_seconds(use: str) -> str:
    """GPU seconds that each job has gained in the chosen time, for these uses.

    Each leader has a series of its own that goes on from the stored total: `increase` would see parts.
    """
    by, seconds = (
        "by (namespace, job, use)",
        f'concertina_job_gpu_seconds_total{{{CHOSEN}, use=~"{use}"}}{_RANGE}',
    )
    return f"max {by} (max_over_time({seconds})) - min {by} (min_over_time({seconds}))"


def _gpu_hours(use: str) -> str:
    """GPU hours of the chosen time of each namespace."""
    return f"sum by (namespace) ({gpu_seconds(use)}) / 3600"
