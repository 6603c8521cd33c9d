"""What a real Prometheus shows of a loss on the job's dashboard, from the trainers of a local run."""

import os
import signal

import pytest

from tests.cluster.api import wait_for
from tests.e2e.runs import started as run_started
from tests.monitoring.dashboards import Chosen, queries
from tests.monitoring.prometheus import INTERVAL_SECONDS, started
from tests.monitoring.scrape import static_config
from tests.ports import free_port
from tests.tasks import job_document

PLACES = ("Age of the snapshot", "Cost of snapshots", "Newest recovery", "Recoveries by source")
NAMESPACE, JOB = "local", "tiny"
SHOWN_SECONDS = 60.0

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(300)]


def document(folder):
    return job_document(
        model="tests.e2e.tasks:UntilTold",
        config={"folder": str(folder), "step_seconds": 0.02},
        samples=10**6,
        batch={"microBatchSize": 2, "initial": 8, "max": 8, "maxAccumulation": 2},
        pods={"min": 2, "max": 2},
        checkpoint={"path": "checkpoints", "everySeconds": 1},
    )


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """A server that has scraped both pods of a run before and after one lost its worker."""
    folder, port = tmp_path_factory.mktemp("losses"), free_port(run=2)
    configs = [
        static_config(
            f"127.0.0.1:{port + index}",
            namespace=NAMESPACE,
            job=JOB,
            job_name=f"pod-{index}",
            honor_labels=False,
        )
        for index in range(2)
    ]
    with (
        started(folder / "prometheus", configs) as server,
        run_started(folder / "run", document(folder), "--metrics-port", str(port)) as run,
    ):
        server.wait_up(namespace=NAMESPACE, job=JOB, count=2)
        row = run.wait_steps(20, workers=2)
        follower = next(pod for pod in ("tiny-0", "tiny-1") if pod != run.leader())
        os.kill(run.worker(follower).pid, signal.SIGKILL)
        run.wait_round(row["round"] + 1)
        counted = f'sum(concertina_recoveries_total{{namespace="{NAMESPACE}", job="{JOB}"}})'
        wait_for(
            lambda: (server.value(counted) or 0) >= 1, lambda: "no recovery is told", SHOWN_SECONDS
        )
        yield server
        (folder / "stop").touch()
        run.end()


@pytest.mark.parametrize("place", PLACES)
def test_a_panel_about_losses_has_data_for_each_of_its_queries(prometheus, place):
    chosen = Chosen(
        namespace=NAMESPACE,
        job=JOB,
        range_seconds=300,
        step_seconds=1,
        scrape_seconds=INTERVAL_SECONDS,
    )
    asked = [query for query in queries("job") if query.place == place]
    assert asked

    def empty():
        expressions = [chosen.substitute(query.expression) for query in asked]
        return [expression for expression in expressions if not prometheus.query(expression)]

    wait_for(lambda: not empty(), lambda: f"without data: {empty()}", SHOWN_SECONDS)
