import asyncio
import urllib.error
import urllib.request

import aiohttp
import pytest

from concertina_operator.cluster.endpoint import Endpoints
from concertina_operator.cluster.health import (
    BUSY_SECONDS,
    SILENCE_SECONDS,
    UNREAD_SECONDS,
    WAITING_SECONDS,
    complaints,
    health_handlers,
    hindrances,
)
from concertina_operator.cluster.rights import operator_rights
from tests.cluster.api import wait_for
from tests.concertina_operator.cluster.installed import apply_all
from tests.concertina_operator.cluster.processes import operator_process


@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        pytest.param((0, 0, 0), [], id="all is well"),
        pytest.param((SILENCE_SECONDS, WAITING_SECONDS, BUSY_SECONDS), [], id="at the limits"),
        pytest.param((121, 0, 0), ["a watch is silent for 121 s > 120 s"], id="watch"),
        pytest.param((0, 601, 0), ["a job waits for 601 s > 600 s"], id="queue"),
        pytest.param((0, 0, 1801), ["a job is worked on for 1801 s > 1800 s"], id="reconcile"),
    ],
)
def test_a_process_that_is_stuck_complains(seconds, want):
    silent, oldest, busiest = seconds
    found = complaints(silent_seconds=silent, oldest_seconds=oldest, busiest_seconds=busiest)
    assert list(found) == want


@pytest.mark.parametrize(
    ("unread", "is_listing", "want"),
    [
        pytest.param(UNREAD_SECONDS, False, [], id="at the limit"),
        pytest.param(31, False, ["the lease was not read for 31 s > 30 s"], id="lease"),
        pytest.param(0, True, ["not everything that is there has been listed yet"], id="listing"),
    ],
)
def test_a_process_that_can_neither_work_nor_take_over_says_why(unread, is_listing, want):
    assert list(hindrances(unread_seconds=unread, is_listing=is_listing)) == want


def test_what_is_wrong_is_answered_where_it_is_asked_for():
    async def test():
        health = health_handlers(
            against_life=lambda: ["stuck"], against_readiness=lambda: ["a", "b"]
        )
        endpoints = Endpoints(health=health, metrics={}, certificate=None)
        places = await endpoints.start(port=0, metrics_port=0)
        url = f"http://127.0.0.1:{places.rpartition(' ')[2]}"
        async with aiohttp.ClientSession() as session:
            for path, want in (("/healthz", "stuck"), ("/readyz", "a\nb")):
                async with session.get(url + path) as answer:
                    assert (answer.status, await answer.text()) == (503, want)
        await endpoints.stop()

    asyncio.run(test())


def test_a_replica_is_not_ready_before_it_may_read_the_lease(resources, api, namespace, tmp_path):
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    account["metadata"] = {"name": "concertina-operator", "namespace": namespace}
    apply_all(api, [account])
    kubeconfig = resources.service_account_kubeconfig(
        tmp_path / "kubeconfig", namespace=namespace, name="concertina-operator"
    )
    with operator_process(kubeconfig, namespace, tmp_path / "log") as replica:
        ready = f"http://127.0.0.1:{replica.port()}/readyz"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(ready)
        assert "the lease was not read" in refused.value.read().decode()
        refused.value.close()
        apply_all(api, operator_rights(namespace=namespace, jobs_in=namespace))

        def is_ready():
            try:
                with urllib.request.urlopen(ready) as answer:
                    return answer.read() == b"ok"
            except urllib.error.HTTPError as error:
                error.close()
                return False

        wait_for(is_ready, lambda: f"not ready: {replica.log.read_text()}")
