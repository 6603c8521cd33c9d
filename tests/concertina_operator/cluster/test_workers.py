import asyncio
from datetime import timedelta

from concertina_operator.cluster.errors import Conflict, Deposed
from concertina_operator.cluster.metrics import Metrics
from concertina_operator.cluster.queue import Queue
from concertina_operator.cluster.store import Key
from concertina_operator.cluster.workers import Workers

A, B = Key("ml", "a"), Key("ml", "b")


def worked(reconcile, *, until, number=4):
    """Runs workers on A and B until the condition holds; the metrics then."""

    async def test():
        queue, metrics = Queue(), Metrics()
        workers = Workers(queue, reconcile, metrics=metrics, number=number)
        running = asyncio.create_task(workers.run())
        queue.add(A)
        queue.add(B)
        async with asyncio.timeout(20):
            while not until():  # noqa: ASYNC110 - any change may make it true
                await asyncio.sleep(0.01)
            await workers.stop(patience_seconds=10)
        running.cancel()
        return metrics.text().decode()

    return asyncio.run(test())


def test_whatever_goes_wrong_with_one_job_the_others_are_served_and_it_is_tried_again():
    served = []

    async def reconcile(key):
        served.append(key)
        if key == A and served.count(A) == 1:
            raise RuntimeError("a bug")
        if key == A and served.count(A) == 2:
            raise Conflict(409, "Conflict", "it changed")
        return

    metrics = worked(reconcile, until=lambda: served.count(A) == 3 and B in served)
    assert 'concertina_operator_reconciles_total{result="Error"} 2.0' in metrics
    assert 'concertina_operator_reconciles_total{result="Done"} 2.0' in metrics


def test_a_job_is_looked_at_again_when_its_reconcile_says_so():
    served = []

    async def reconcile(key):
        served.append(key)
        return timedelta(milliseconds=10) if key == A else None

    worked(reconcile, until=lambda: served.count(A) == 5)
    assert served.count(B) == 1


def test_two_workers_never_have_the_same_job():
    busy, most, count = set(), [], []

    async def reconcile(key):
        assert key not in busy
        busy.add(key)
        most.append(len(busy))
        await asyncio.sleep(0.01)
        busy.discard(key)
        count.append(key)
        return timedelta(0)

    worked(reconcile, until=lambda: len(count) > 10)
    assert max(most) == 2


def test_a_job_that_could_not_be_served_while_the_lease_was_renewed_is_tried_again():
    served = []

    async def reconcile(key):
        served.append(key)
        if served.count(A) == 1 and key == A:
            raise Deposed(0, "Deposed", "the renewal is under way")

    metrics = worked(reconcile, until=lambda: served.count(A) == 2)
    assert 'result="Deposed"} 1.0' in metrics


def test_stopping_waits_for_the_jobs_in_hand():
    finished = []

    async def reconcile(key):
        began.append(key)
        await asyncio.sleep(0.1)
        finished.append(key)

    began = []
    worked(reconcile, until=lambda: len(began) == 2)
    assert sorted(finished) == [A, B]
