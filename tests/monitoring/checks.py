"""Whether every query of the dashboards returns data, asked of a Prometheus that scraped a job.

Called by the scenario that installs the chart, and by `python -m tests.monitoring.pictures`.
"""

import math
import time
from collections.abc import Iterator

from tests.cluster.api import wait_for
from tests.monitoring.dashboards import NAMES, Chosen, Query, queries, variables
from tests.monitoring.prometheus import INTERVAL_SECONDS, Prometheus

DATA_SECONDS = 30.0
"""A rate needs scrapes before it is one."""
STEP_SECONDS = 2.0
MAY_BE_EMPTY = {
    "concertina_device_energy_joules_total": "there is no GPU that tells its energy",
    "concertina_device_memory_bytes": "there is no GPU",
    "concertina_detection_seconds": "no pod was lost; test_losses.py loses one",
    "concertina_recovery_seconds": "no pod was lost; test_losses.py loses one",
    'count_values("failures"': "nothing failed",
}
"""Parts of the expressions that may return nothing here, and why."""


def wait_no_empty_queries(prometheus: Prometheus, *, namespace: str, job: str) -> None:
    """Wait until every query has returned data at some time since the server was started."""
    wait_for(
        lambda: not empty_queries(prometheus, namespace=namespace, job=job),
        lambda: (
            "without data:\n" + "\n".join(empty_queries(prometheus, namespace=namespace, job=job))
        ),
        DATA_SECONDS,
    )


def empty_queries(prometheus: Prometheus, *, namespace: str, job: str) -> list[str]:
    """The queries and variables of both dashboards that return nothing, but those that may."""
    chosen = Chosen(
        namespace=namespace,
        job=job,
        range_seconds=max(time.time() - prometheus.started_at, 60.0),
        step_seconds=STEP_SECONDS,
        scrape_seconds=INTERVAL_SECONDS,
    )
    return [
        problem
        for name in NAMES
        for problem in (
            *_empty_variables(prometheus, name, chosen),
            *(str(query) for query in queries(name) if _is_empty(prometheus, query, chosen)),
        )
    ]


def may_be_empty(expression: str) -> bool:
    """Whether this expression may return nothing on a machine without a GPU where all goes well."""
    return any(part in expression for part in MAY_BE_EMPTY)


def _is_empty(prometheus: Prometheus, query: Query, chosen: Chosen) -> bool:
    """Also an instant query is asked over the whole time: its job may have ended by now."""
    if may_be_empty(query.expression):
        return False
    series = prometheus.query_range(
        chosen.substitute(query.expression),
        start=prometheus.started_at,
        end=time.time(),
        step_seconds=chosen.step_seconds,
    )
    return all(math.isnan(float(value)) for one in series for _, value in one["values"])


def _empty_variables(prometheus: Prometheus, name: str, chosen: Chosen) -> Iterator[str]:
    wanted = {"namespace": chosen.namespace, "job": chosen.job}
    for variable, selector, label in variables(name):
        found = prometheus.label_values(label, selector=chosen.substitute(selector))
        if wanted[variable] not in found:
            yield f"{name}: variable {variable}: {wanted[variable]} is not in {found}"
