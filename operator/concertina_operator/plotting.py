"""Draws a run: loss, batch, workers and pauses over samples, in one PNG.

Called by `concertina plot` and at the end of `concertina run`. Steps that were rolled back are left
out, so each sample is drawn once.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final

from concertina_api.errors import InvalidJob, MissingPackage
from concertina_operator.local.record import (
    EvaluationRow,
    Row,
    StepRow,
    read_rows,
    resizes,
    surviving_steps,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOSS, _SMOOTH, _BATCH, _WORKERS, _PAUSE = "#b8c4d6", "#2f5c9e", "#2a7f62", "#8a5a9e", "#c2483d"
_EVALUATION: Final = ("#d98e04", "#a63d57", "#3d8ea6", "#6b6b6b")
_GREY: Final = "#666666"
_SMOOTHING_FRACTION: Final = 0.005
"""Horizon of the smoothed loss, as a fraction of the run's samples."""
_MAX_LABELS: Final = 12


def plot_run(run_directory: Path, *, output: Path | None = None) -> Path:
    """Draws the run into `output` (default: plot.png in its directory) and returns that path.

    Raises InvalidJob when there is nothing to draw, MissingPackage without matplotlib.
    """
    record = run_directory / "steps.jsonl"
    if not run_directory.is_dir():
        raise InvalidJob(f"{run_directory} is no directory of a run")
    rows = read_rows(record)
    if not surviving_steps(rows):
        raise InvalidJob(f"{record} holds no step; there is nothing to plot")
    output = output or run_directory / "plot.png"
    draw(rows, title=run_directory.resolve().name, output=output)
    return output


def draw(rows: Sequence[Row], *, title: str, output: Path) -> None:
    """Draws these rows, at least one of them a step, into a PNG."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    except ImportError as error:
        raise MissingPackage("matplotlib", extra="local", purpose="a plot") from error

    steps = surviving_steps(rows)
    evaluations = [row for row in rows if isinstance(row, EvaluationRow) and not row.discarded]
    figure = Figure(figsize=(9, 7.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    loss, batch, workers = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1.5, 1)}
    )
    _draw_loss(loss, steps, evaluations)
    _draw_batch(batch, steps)
    _draw_workers(workers, steps)
    for axes in (loss, batch, workers):
        axes.grid(visible=True, color="#e6e6e6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        for before, _ in resizes(steps):
            axes.axvline(before.samples, color=_PAUSE, linewidth=0.8, linestyle=(0, (4, 3)))
    workers.set_xlabel("samples")
    workers.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    workers.set_xlim(0, 1.015 * steps[-1].samples)
    figure.suptitle(f"{title}: {_headline(steps)}", fontsize=11, x=0.01, ha="left")
    figure.savefig(output, format="png")


def _draw_loss(
    axes: "Axes", steps: Sequence[StepRow], evaluations: Sequence[EvaluationRow]
) -> None:
    points = [(row.samples, row.loss) for row in steps if row.loss is not None]
    samples, losses = [at for at, _ in points], [loss for _, loss in points]
    axes.plot(samples, losses, color=_LOSS, linewidth=0.7, label="training, each step")
    smooth = _smoothed(samples, losses)
    axes.plot(samples, smooth, color=_SMOOTH, linewidth=1.6, label="training, smoothed")
    names = sorted({name for row in evaluations for name in row.evaluation})
    for number, name in enumerate(names):
        marks = [
            (row.samples, loss)
            for row in evaluations
            if (loss := row.evaluation.get(name)) is not None
        ]
        axes.plot(
            [at for at, _ in marks],
            [loss for _, loss in marks],
            "o",
            color=_EVALUATION[number % len(_EVALUATION)],
            markersize=4,
            markeredgecolor="white",
            markeredgewidth=0.5,
            label=f"evaluation: {name}",
            zorder=3,
        )
    axes.set_ylabel("loss")
    axes.legend(frameon=False, fontsize=9, loc="upper right")


def _draw_batch(axes: "Axes", steps: Sequence[StepRow]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    samples, batches = _stairs(steps, _without_last(steps))
    axes.plot(samples, batches, color=_BATCH, linewidth=1.8)
    axes.set_yscale("log", base=2)
    ticks = sorted(set(batches))
    if len(ticks) <= _MAX_LABELS:
        axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylim(min(ticks) / 1.4, max(ticks) * 1.4)
    axes.set_ylabel("global batch\n(samples)")


def _draw_workers(axes: "Axes", steps: Sequence[StepRow]) -> None:
    from matplotlib.ticker import MaxNLocator

    samples, sizes = _stairs(steps, [row.world_size for row in steps])
    axes.fill_between(samples, sizes, color=_WORKERS, alpha=0.25, linewidth=0)
    axes.plot(samples, sizes, color=_WORKERS, linewidth=1.8)
    top = max(sizes)
    axes.set_ylim(0, top * 1.45)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.set_ylabel("workers")
    changes = resizes(steps)
    if len(changes) > _MAX_LABELS:
        return
    for before, after in changes:
        # Labels near the right end stand left of their line.
        right = before.samples > 0.85 * steps[-1].samples
        axes.annotate(
            f"pause {after.pause_seconds:.2f} s",
            xy=(before.samples, top * 1.38),
            xytext=(-4 if right else 4, 0),
            textcoords="offset points",
            fontsize=8,
            va="top",
            ha="right" if right else "left",
            color=_PAUSE,
        )


def _without_last(steps: Sequence[StepRow]) -> list[int]:
    """Batches of the steps; the last step, which takes what is left, shows the one before it."""
    batches = [row.global_batch_size for row in steps]
    return [*batches[:-1], batches[-2]] if len(batches) > 1 else batches


def _stairs(steps: Sequence[StepRow], values: Sequence[int]) -> tuple[list[int], list[int]]:
    """Corners of a line that holds each value over the samples of its step."""
    edges = [
        edge
        for row, value in zip(steps, values, strict=True)
        for edge in ((row.samples - row.global_batch_size, value), (row.samples, value))
    ]
    return [at for at, _ in edges], [value for _, value in edges]


def _smoothed(samples: Sequence[int], losses: Sequence[float]) -> list[float]:
    """Exponential average whose weight of a step grows with its samples."""
    if not losses:
        return []
    horizon = max(1.0, samples[-1] * _SMOOTHING_FRACTION)
    batches = [b - a for a, b in zip([0, *samples], samples, strict=False)]
    shares = [batch / (batch + horizon) for batch in batches]
    pairs = list(zip(losses, shares, strict=True))[1:]
    return list(accumulate(pairs, _blend, initial=losses[0]))


def _blend(average: float, step: tuple[float, float]) -> float:
    loss, share = step
    return average + share * (loss - average)


def _headline(steps: Sequence[StepRow]) -> str:
    batches = [row.global_batch_size for row in steps[:-1] or steps]
    sizes = [row.world_size for row in steps]
    changes = resizes(steps)
    parts = [
        f"{len(steps):,} steps",
        f"batch {batches[0]:,} to {max(batches):,}",
        f"{sizes[0]} to {max(sizes)} workers" if changes else f"{sizes[0]} worker(s)",
    ]
    if changes:
        pause = sum(after.pause_seconds for _, after in changes)
        noun = "resize" if len(changes) == 1 else "resizes"
        parts.append(f"{len(changes)} {noun}, {pause:.2f} s of pauses")
    return ", ".join(parts)
