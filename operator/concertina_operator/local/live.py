"""The live display of a terminal, drawn with Rich: lines scroll above, the present stands below.

Chosen by display.py. Importing this module without rich raises MissingPackage.
"""

from datetime import datetime
from typing import Final

from concertina_api.batch import accumulation
from concertina_api.errors import MissingPackage
from concertina_operator.local.display import Display, PodView, View
from concertina_operator.local.narrate import (
    Line,
    Topic,
    clean,
    duration_text,
    loss_text,
    phases_text,
)

try:
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise MissingPackage("rich", extra="local", purpose="the live display") from error

_STYLES: Final = {
    Topic.GROW: "bold green",
    Topic.HOLD: "dim",
    Topic.SHADOW: "dim",
    Topic.RESIZE: "bold cyan",
    Topic.EVALUATION: "magenta",
    Topic.PLAN: "blue",
    Topic.WARNING: "yellow",
    Topic.FAILURE: "bold red",
    Topic.NOTE: "",
    Topic.PROGRESS: "dim",
}
_QUIET: Final = (Topic.HOLD, Topic.SHADOW)
_POD_STYLES: Final = {
    "Training": "green",
    "Warm": "cyan",
    "Finished": "green",
    "Waiting": "yellow",
    "Left": "dim",
    "Failed": "red",
    "Ending": "dim",
}
_MAX_PODS: Final = 8


class LiveDisplay(Display):
    """Redraws a few lines at the bottom of the terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, refresh_per_second=8)

    def say(self, line: Line) -> None:
        """Prints the line above the picture."""
        self._console.print(_line(line))

    def show(self, view: View) -> None:
        """Redraws the picture."""
        self._live.start()
        self._live.update(picture(view))

    def close(self) -> None:
        """Leaves the last picture on the terminal."""
        self._live.stop()


def picture(view: View) -> RenderableType:
    """The run as it is now, in a few rows."""
    facts = Table.grid(padding=(0, 2), expand=True)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for name, value in (
        ("train", _training(view)),
        ("batch", _batch(view)),
        ("pods", _pods(view.pods)),
        ("pause", _pause(view)),
        ("plan", Text(clean(view.reason), style="dim")),
    ):
        facts.add_row(name, value)
    title = view.job.metadata.name
    if view.stopping:
        title += " - saving a checkpoint and stopping; Ctrl-C again stops at once"
    return Group(Rule(Text(title, style="bold"), style="dim", align="left"), _bar(view), facts)


def _line(line: Line) -> RenderableType:
    style = _STYLES[line.topic]
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(style="dim", no_wrap=True)
    row.add_column(style=style, width=8, no_wrap=True)
    row.add_column(ratio=1, style="dim" if line.topic in _QUIET else "")
    row.add_row(f"{datetime.now():%H:%M:%S}", line.topic.value, Text(line.text))
    return row


def _bar(view: View) -> RenderableType:
    samples = view.step.samples if view.step else 0
    total = view.total_samples
    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(ratio=1)
    row.add_column(justify="right", no_wrap=True)
    row.add_column(justify="right", no_wrap=True, style="bold")
    if total is None:
        row.add_row(ProgressBar(pulse=True), f"{samples:,} samples", "")
        return row
    left = view.seconds_left
    remaining = "starting" if view.step is None else "..."
    if left is not None:
        remaining = f"{duration_text(left)} left"
    if samples >= total:
        remaining = "done"
    row.add_row(
        ProgressBar(
            total=total,
            completed=min(samples, total),
            complete_style="green",
            finished_style="green",
        ),
        f"{min(1.0, samples / total):.0%}  {samples:,} of {total:,} samples",
        remaining,
    )
    return row


def _training(view: View) -> Text:
    row = view.step
    if row is None:
        return Text("waiting for the first step", style="dim")
    text = Text.assemble("loss ", (loss_text(row.loss), "bold"), f"   step {row.step:,}")
    if view.samples_per_second:
        text.append(f"   {view.samples_per_second:,.0f} samples/s")
    if view.evaluation:
        for name, loss in view.evaluation.evaluation.items():
            text.append(f"   {clean(name)} {loss_text(loss)}", style="magenta")
    return text


def _batch(view: View) -> Text:
    row, decision = view.step, view.decision
    if row is None:
        return Text(f"starts at {view.job.spec.batch.initial} samples", style="dim")
    each = accumulation(row.num_micro_batches, row.world_size)
    text = Text.assemble(
        "requested ",
        (f"{decision.requested if decision else row.global_batch_size:,}", "bold"),
        "   effective ",
        (f"{row.global_batch_size:,}", "bold"),
        f" = {row.num_micro_batches} x {view.job.spec.batch.micro_batch_size}, {each} per worker",
    )
    noise = decision.noise_scale if decision else None
    text.append(f"   noise scale {noise:,.0f}" if noise is not None else "", style="")
    return text


def _pods(pods: tuple[PodView, ...]) -> Text:
    if not pods:
        return Text("none", style="dim")
    text = Text()
    for pod in pods[:_MAX_PODS]:
        style = _POD_STYLES.get(pod.state, "yellow")
        # A filled circle trains, a hollow one does not.
        sign = "\u25cf" if pod.state == "Training" else "\u25cb"
        text.append(f"{sign} ", style=style)
        text.append(f"{pod.name} {pod.state.lower()}   ")
    if len(pods) > _MAX_PODS:
        text.append(f"and {len(pods) - _MAX_PODS} more", style="dim")
    return text


def _pause(view: View) -> Text:
    resize = view.resize
    if resize is None or resize.world_size_before == 0:
        return Text("no resize so far", style="dim")
    text = Text.assemble(
        (f"{resize.pause_seconds:.2f} s", "bold"),
        f"   {resize.world_size_before} -> {resize.world_size} workers",
    )
    text.append(f"   {phases_text(resize.phases)}", style="dim")
    return text
