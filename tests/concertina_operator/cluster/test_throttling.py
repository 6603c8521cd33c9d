"""The API server's own fairness turns a client away for a while, and says for how long."""

import asyncio
import time
from collections import defaultdict
from itertools import pairwise

import pytest

from concertina_operator.cluster.client import Api

MANY = 16
FLOWS = "/apis/flowcontrol.apiserver.k8s.io/v1"


@pytest.fixture
def closed(control_plane, api, namespace, tmp_path, monkeypatch):
    """The path of the rule by which the client of this test is turned away."""
    path = control_plane.service_account_kubeconfig(
        tmp_path / "config", namespace=namespace, name="default"
    )
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(path))
    no_seats = {
        "type": "Limited",
        "limited": {
            "nominalConcurrencyShares": 0,
            "borrowingLimitPercent": 0,
            "limitResponse": {"type": "Reject"},
        },
    }
    account = {"kind": "ServiceAccount", "serviceAccount": {"name": "default"}}
    account["serviceAccount"]["namespace"] = namespace
    rule = {"verbs": ["*"], "nonResourceURLs": ["*"]}
    schema = {
        "priorityLevelConfiguration": {"name": namespace},
        "matchingPrecedence": 2,
        "rules": [{"subjects": [account], "nonResourceRules": [rule]}],
    }
    level, flow = f"{FLOWS}/prioritylevelconfigurations", f"{FLOWS}/flowschemas"
    api.create(level, {"metadata": {"name": namespace}, "spec": no_seats})
    api.create(flow, {"metadata": {"name": namespace}, "spec": schema})
    yield f"{flow}/{namespace}"
    api.delete(f"{flow}/{namespace}")
    api.delete(f"{level}/{namespace}")


def test_a_client_that_is_turned_away_waits_as_long_as_the_server_says(closed, api):
    answers = defaultdict(list)
    is_turned_away = asyncio.Event()

    def note(_, status):
        answers[asyncio.current_task()].append((time.monotonic(), status))
        if status == 429:
            is_turned_away.set()

    async def ask_at_once(client):
        """Many calls side by side: without seats the server takes one at a time."""
        asked = (client.call("GET", "/openapi/v3/api/v1") for _ in range(MANY))
        await asyncio.gather(*asked)

    async def test():
        async with Api(on_answer=note) as client, asyncio.timeout(60):
            while not is_turned_away.is_set():
                asking = asyncio.create_task(ask_at_once(client))
                turned_away = asyncio.create_task(is_turned_away.wait())
                await asyncio.wait({asking, turned_away}, return_when=asyncio.FIRST_COMPLETED)
                turned_away.cancel()
            await asyncio.to_thread(api.delete, closed)
            await asking

    asyncio.run(test())
    patient = [call for call in answers.values() if call[0][1] == 429]
    for call in patient:
        assert call[-1][1] == 200
        for (earlier, _), (later, _) in pairwise(call):
            assert later - earlier >= 1
