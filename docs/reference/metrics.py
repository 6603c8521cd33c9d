"""The metrics reference: the tables that the operator and the trainer export by. Called by pages.py."""

from collections.abc import Iterable
from typing import Any, Final

from concertina_operator.cluster.metrics import METRICS as OPERATOR
from concertina_trainer.agent.metrics import METRICS as TRAINER
from docs.reference.markdown import code, codes, page, table

_INTRODUCTION: Final = """\
Every metric, its type, unit and labels. Names end in their base unit; counters end in `_total`. Labels
are bounded: no label holds a message or a number. Series about a job end with the job.

A metric without a value is absent, not 0."""
_HEAD: Final = ("name", "type", "unit", "labels", "meaning")


def metrics_page() -> str:
    """The whole page."""
    return page(
        "Metrics",
        _INTRODUCTION,
        "## Operator",
        "Served at `/metrics` by each replica. The leader tells of jobs; a replica that waits tells"
        " of its own process alone.",
        table(_HEAD, _rows(OPERATOR)),
        "## Trainer",
        "Served at `/metrics` by the agent of each pod, on the container port named `metrics`; by"
        " `concertina run --metrics-port` on one machine. What is true of the job as a whole is"
        " told by the pod that leads alone. Counters count what a pod has led, and go with it: take"
        " `increase` over them, and `concertina_job_samples` for the whole of a job.",
        table(_HEAD, _rows(TRAINER)),
    )


def _rows(metrics: Iterable[Any]) -> Iterable[tuple[str, ...]]:
    for one in metrics:
        yield code(one.name), one.type, one.unit, codes(one.labels), one.help
