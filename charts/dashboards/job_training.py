"""The part of a job's dashboard about training: batch, noise, loss, workers. Pure."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import units

from charts.dashboards.panels import Scale, Style, chart, query

THIS: Final = 'namespace="$namespace", job="$job"'
"""The job that was chosen."""


def batch(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """Batch, noise scale, and what the rule makes of them."""
    made = made.with_row(dashboard.Row("Batch and gradient noise"))
    made = made.with_panel(
        chart(
            "Global batch and noise scale",
            query(one("concertina_global_batch_requested_samples"), "requested"),
            query(one("concertina_global_batch_effective_samples"), "effective"),
            query(one("concertina_noise_scale_samples"), "noise scale"),
            description="Batch that the rule asks for, batch that runs after cap and grid, and the"
            " gradient noise scale, all in samples. Growth pays while the noise scale is above.",
            unit=units.Number,
            style=Style.STEPS,
            scale=Scale.POWERS_OF_TWO,
            width=12,
        )
    )
    made = made.with_panel(
        chart(
            "Rule: ratio against threshold",
            query(one("concertina_rule_ratio"), "ratio"),
            query(one("concertina_rule_threshold"), "threshold"),
            description="Batch that the gradient asks for over the batch that runs, and the ratio from"
            " which the rule's next decision grows it.",
            unit=units.Number,
            dashed=["threshold"],
            width=12,
        )
    )
    made = made.with_panel(
        chart(
            "Gradient variance and norm",
            query(one("concertina_gradient_variance"), "variance"),
            query(one("concertina_gradient_norm"), "norm"),
            description="tr(Sigma), the variance of one sample's gradient, smoothed as the rule has it,"
            " and |g|, the norm of the newest step's gradient before clipping.",
            unit=units.Number,
            scale=Scale.POWERS_OF_TEN,
        )
    )
    made = made.with_panel(
        chart(
            "Accumulation",
            query(one("concertina_accumulation_micro_batches"), "micro-batches per worker"),
            description="Micro-batches that one worker runs in a step. A larger batch is accumulated at"
            " once; above spec.batch.maxAccumulation more pods are asked for.",
            unit=units.Number,
            style=Style.STEPS,
        )
    )
    return made.with_panel(
        chart(
            "Age of the noise estimate",
            query(one("concertina_noise_estimate_age_samples"), "samples since the last"),
            description="Samples since the gradient noise was last measured. Without an estimate the"
            " batch stays as it is.",
            unit=units.Number,
        )
    )


def learning(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """Loss, learning rate, throughput."""
    made = made.with_row(dashboard.Row("Learning"))
    made = made.with_panel(
        chart(
            "Loss",
            query(one("concertina_loss"), "loss"),
            description="Training loss of the newest step. A resize leaves it where it was.",
            unit=units.Number,
        )
    )
    made = made.with_panel(
        chart(
            "Learning rate",
            query(one("concertina_learning_rate"), "learning rate"),
            description="Learning rate of the newest step, its batch law applied.",
            unit=units.ScientificNotation,
        )
    )
    return made.with_panel(
        chart(
            "Throughput",
            query(one("concertina_samples_per_second"), "samples/s"),
            query(one("concertina_tokens_per_second"), "tokens/s"),
            description="Samples and tokens in a second; tokens only for tasks that say how many a"
            " sample has.",
            unit=units.Number,
            on_the_right={"tokens/s": units.Short},
        )
    )


def workers(made: dashboard.Dashboard) -> dashboard.Dashboard:
    """Pods, steps, reports."""
    made = made.with_row(dashboard.Row("Workers"))
    made = made.with_panel(
        chart(
            "Pods and workers",
            query(one("concertina_job_pods_wanted"), "pods wanted"),
            query(one("concertina_job_pods_ready"), "pods ready"),
            query(one("concertina_world_size"), "workers that train"),
            description="Pods that the operator wants, those whose workers are warm or train, and the"
            " workers of the present round.",
            unit=units.Number,
            style=Style.STEPS,
            width=12,
        )
    )
    made = made.with_panel(
        chart(
            "Step time",
            query(one("concertina_step_seconds"), "newest step"),
            description="Duration of the newest optimizer step. It grows with the batch and falls with"
            " more workers.",
            unit=units.Seconds,
            width=6,
        )
    )
    return made.with_panel(
        chart(
            "Age of the newest report",
            query(one("concertina_job_last_report_age_seconds"), "since the last report"),
            description="Time since any pod of the job told the operator anything. Silence says that"
            " pods hang or cannot reach the API server.",
            unit=units.Seconds,
            width=6,
        )
    )


def one(metric: str) -> str:
    """The job's value, whichever process exports it."""
    return f"max({metric}{{{THIS}}})"


def counted(metric: str, *, by: str = "") -> str:
    """What a counter of the pods has gained in the chosen time, those that are gone included."""
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (increase({metric}{{{THIS}}}[$__range]))"
