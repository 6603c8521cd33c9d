"""The part of a job's dashboard about what is lost and what is kept: goodput, snapshots, losses. Pure."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import units

from charts.dashboards.job_training import THIS, counted, one
from charts.dashboards.panels import Style, bars, chart, query, query_now

_HELD: Final = "concertina_job_gpu_seconds_total"


def recovery(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """What snapshots cost and save, and what losses did."""
    made = made.with_row(dashboard.Row("Failures and recovery"))
    made = made.with_panel(
        chart(
            "Goodput",
            query(one("concertina_job_goodput_ratio"), "in steps that counted"),
            query(
                f'max({_HELD}{{{THIS}, use="training"}}) / sum(max by (use) ({_HELD}{{{THIS}}}))',
                "in rounds that train",
            ),
            description="Share of the GPU time held since the job was created: in the steps that led to"
            " the present state, and in rounds that train, with their pauses and lost steps.",
            unit=units.PercentUnit,
        )
    )
    made = made.with_panel(
        chart(
            "Age of the snapshot",
            query(one("concertina_snapshot_age_steps"), "since the last"),
            query(one("concertina_snapshot_interval_steps"), "interval"),
            query(one("concertina_snapshot_age_seconds"), "in seconds"),
            description="Steps since the newest snapshot that all workers hold, which is what the loss"
            " of a pod costs, and the steps between two as their cost allows it.",
            unit=units.Number,
            style=Style.STEPS,
            dashed=["interval"],
            on_the_right={"in seconds": units.Seconds},
        )
    )
    made = made.with_panel(
        chart(
            "Cost of snapshots",
            query(one("concertina_snapshot_cost_ratio"), "share of the step time"),
            query(one("concertina_snapshot_seconds"), "until neighbours had it"),
            description="Share of the step time that snapshots take, which spec.snapshots.maxCost"
            " bounds, and the time from a copy until every neighbour had it.",
            unit=units.PercentUnit,
            on_the_right={"until neighbours had it": units.Seconds},
        )
    )
    made = made.with_panel(
        chart(
            "Newest recovery",
            query(one("concertina_detection_seconds"), "until it was noticed"),
            query(one("concertina_recovery_seconds"), "until the next step"),
            description="After the newest loss: the time until the membership named it, and from the last"
            " step before it to the first one after. Empty until a pod is lost.",
            unit=units.Seconds,
            style=Style.STEPS,
        )
    )
    made = made.with_panel(
        bars(
            "Recoveries by source",
            query_now(counted("concertina_recoveries_total", by="source"), "from {{source}}"),
            query_now(counted("concertina_rollbacks_total"), "roll-backs of skipped steps"),
            description="Losses in the chosen time by where training took its state from, and how often"
            " skipped steps led back to a snapshot.",
            unit=units.Number,
            decimals=0,
        )
    )
    return made.with_panel(
        bars(
            "What losses did",
            query_now(one("concertina_job_steps_lost_total"), "steps run again"),
            query_now(one("concertina_job_recoveries_total"), "losses"),
            query_now(
                one("concertina_job_infrastructure_failures_total"), "failures of infrastructure"
            ),
            query_now(counted("concertina_snapshot_failures_total"), "failed snapshots"),
            query_now(counted("concertina_checkpoint_failures_total"), "failed checkpoints"),
            query_now(one("concertina_job_avoided_nodes"), "nodes avoided now"),
            query_now(one("concertina_slow_pods"), "slow pods now"),
            description="Since the job was created: steps that were done and run again, losses that"
            " training survived, failures that nobody's code had caused. Snapshots and checkpoints that"
            " failed in the chosen time, and the nodes and pods that are in the way now.",
            unit=units.Number,
            decimals=0,
        )
    )
