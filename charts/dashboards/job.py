"""The dashboard of one job: its batch and why it has that, its workers, its pauses, its cost. Pure.

Series about training are exported by the pod that leads, so the largest over pods is the job's.
"""

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import units

from charts.dashboards.annotations import failures, pauses
from charts.dashboards.frame import JOB_UID, frame, jobs_of_the_namespace, namespaces
from charts.dashboards.job_recovery import recovery
from charts.dashboards.job_training import THIS, batch, counted, learning, one, workers
from charts.dashboards.panels import (
    Style,
    bars,
    chart,
    name_of_series,
    number,
    query,
    query_now,
)

_RATE: Final = "[$__rate_interval]"


def job() -> dashboard.Dashboard:
    """All of it, row by row."""
    made = frame(
        "Concertina / Job",
        uid=JOB_UID,
        description="One training job: batch, gradient noise, workers, pauses and what it costs.",
    )
    made = made.with_variable(namespaces()).with_variable(jobs_of_the_namespace())
    made = made.annotation(pauses(THIS)).annotation(failures(THIS))
    for add in (_now, batch, learning, workers, _pauses, recovery, _cost, _safety):
        made = add(made)
    return made


def _now(made: dashboard.Dashboard) -> dashboard.Dashboard:
    made = made.with_row(dashboard.Row("Now"))
    made = made.with_panel(
        name_of_series(
            "State",
            query_now(f"max by (state) (concertina_job_state{{{THIS}}} == 1)", "{{state}}"),
            description="What `kubectl get atj` prints as State.",
        )
    )
    made = made.with_panel(
        number(
            "Done",
            query(f"{one('concertina_job_samples')} / {one('concertina_job_samples_target')}"),
            description="Samples that are trained, of those of the whole run.",
            unit=units.PercentUnit,
            decimals=1,
        )
    )
    made = made.with_panel(
        number(
            "Time left",
            query(
                f"({one('concertina_job_samples_target')} - {one('concertina_job_samples')})"
                f" / {one('concertina_samples_per_second')}"
            ),
            description="At the present throughput; a resize makes it shorter.",
            unit=units.Seconds,
            decimals=0,
        )
    )
    made = made.with_panel(
        number(
            "Global batch",
            query(one("concertina_global_batch_effective_samples")),
            description="Samples in one optimizer step, as it runs now.",
            unit=units.Number,
        )
    )
    made = made.with_panel(
        number(
            "Noise scale",
            query(one("concertina_noise_scale_samples")),
            description="Gradient noise scale in samples: tr(Sigma) / |G|^2. A batch far below it"
            " still gains from growth, one far above it wastes samples.",
            unit=units.Number,
            decimals=0,
        )
    )
    made = made.with_panel(
        number(
            "Workers",
            query(one("concertina_world_size")),
            description="Training processes in the present round, one for each GPU.",
            unit=units.Number,
        )
    )
    made = made.with_panel(
        number(
            "Throughput",
            query(one("concertina_samples_per_second")),
            description="Samples in a second.",
            unit=units.Number,
            decimals=1,
        )
    )
    return made.with_panel(
        number(
            "GPU hours",
            query(f"sum(concertina_job_gpu_seconds_total{{{THIS}}}) / 3600"),
            description="GPU hours that the job has held since it was created.",
            unit=units.Number,
            decimals=2,
        )
    )


def _pauses(made: dashboard.Dashboard) -> dashboard.Dashboard:
    made = made.with_row(dashboard.Row("Resizes and pauses"))
    made = made.with_panel(
        chart(
            "Pause of the newest resize, by phase",
            query(f"max by (phase) (concertina_last_resize_phase_seconds{{{THIS}}})", "{{phase}}"),
            description="From the end of the last step of the old round to the start of the first of"
            " the new one, by what it was spent on.",
            unit=units.Seconds,
            style=Style.STACKED,
        )
    )
    paused = counted("concertina_resize_pause_seconds_total")
    made = made.with_panel(
        bars(
            "Time lost in pauses",
            query_now(paused, "all pauses"),
            query_now(f"{paused} / {counted('concertina_resizes_total')}", "mean pause"),
            description="All pauses of the chosen time together, and their mean.",
            unit=units.Seconds,
        )
    )
    return made.with_panel(
        bars(
            "Resizes by reason",
            query_now(
                f"max by (direction, reason) (concertina_job_resizes_total{{{THIS}}})",
                "{{direction}}: {{reason}}",
            ),
            description="Rounds that were acknowledged after the first.",
            unit=units.Number,
        )
    )


def _cost(made: dashboard.Dashboard) -> dashboard.Dashboard:
    made = made.with_row(dashboard.Row("Cost"))
    made = made.with_panel(
        chart(
            "GPU hours",
            query(_gpu_hours("training"), "training"),
            query(_gpu_hours("idle"), "idle"),
            description="GPU hours held since the job was created: in rounds that train, and idle.",
            unit=units.Number,
            style=Style.STACKED,
        )
    )
    made = made.with_panel(
        chart(
            "Memory",
            query(f"max(concertina_worker_peak_bytes{{{THIS}}})", "largest worker so far"),
            query(f"max(concertina_worker_state_bytes{{{THIS}}})", "parameters and optimizer"),
            query(f"max(concertina_device_memory_bytes{{{THIS}}})", "on GPUs of a pod"),
            description="Largest memory of any worker, the parameters and optimizer state of the"
            " largest worker, and what the workers of the fullest pod hold on their GPUs.",
            unit=units.BytesIEC,
        )
    )
    return made.with_panel(
        chart(
            "Power",
            query(f"sum(rate(concertina_device_energy_joules_total{{{THIS}}}{_RATE}))", "devices"),
            description="Power of all devices of the job, where they tell the energy that they use.",
            unit=units.Watt,
        )
    )


def _safety(made: dashboard.Dashboard) -> dashboard.Dashboard:
    made = made.with_row(dashboard.Row("Checkpoints and failures"))
    made = made.with_panel(
        chart(
            "Age of the checkpoint",
            query(one("concertina_checkpoint_age_seconds"), "since the last"),
            query(one("concertina_checkpoint_interval_seconds"), "wanted interval"),
            description="Age of the state in the newest durable checkpoint, which is what the loss of"
            " all pods costs, and the time between two that the job asks for.",
            dashed=["wanted interval"],
            unit=units.Seconds,
        )
    )
    made = made.with_panel(
        chart(
            "Time of a checkpoint",
            query(one("concertina_checkpoint_blocking_seconds"), "training waited"),
            query(one("concertina_checkpoint_seconds"), "until durable"),
            description="How long training waited for the newest checkpoint, and how long it took"
            " until that was durable.",
            unit=units.Seconds,
        )
    )
    return made.with_panel(
        bars(
            "What went wrong",
            query_now(one("concertina_job_failures_total"), "failures"),
            query_now(counted("concertina_worker_restarts_total"), "restarts"),
            query_now(counted("concertina_skipped_steps_total"), "skipped steps"),
            query_now(
                counted("concertina_micro_batches_recomputed_total"), "micro-batches run again"
            ),
            query_now(f"sum(concertina_job_refusals_total{{{THIS}}}) or vector(0)", "refusals"),
            description="Failures that counted against backoffLimit and refusals, since the job was"
            " created; in the chosen time workers started anew, steps that changed no parameter, and"
            " work that was thrown away.",
            unit=units.Number,
        )
    )


def _gpu_hours(use: str) -> str:
    return f'max(concertina_job_gpu_seconds_total{{{THIS}, use="{use}"}}) / 3600'
