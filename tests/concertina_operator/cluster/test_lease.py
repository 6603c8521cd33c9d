import asyncio
import os

import pytest

from concertina_operator.cluster import paths
from concertina_operator.cluster.client import Api
from concertina_operator.cluster.errors import Deposed
from concertina_operator.cluster.lease import (
    DURATION_SECONDS,
    LOOK_SECONDS,
    RENEW_SECONDS,
    Lease,
    Sighting,
    claimed,
    is_free,
    sighted,
    time_to_look,
)

HELD = {
    "holderIdentity": "other",
    "renewTime": "2026-01-01T00:00:00.000000Z",
    "leaseDurationSeconds": DURATION_SECONDS,
    "leaseTransitions": 3,
}


@pytest.mark.parametrize(
    ("spec", "seen_at", "now", "want"),
    [
        pytest.param({}, 0.0, 0.0, True, id="never held"),
        pytest.param({"holderIdentity": ""}, 0.0, 0.0, True, id="given up"),
        pytest.param(HELD, 0.0, DURATION_SECONDS - 0.1, False, id="held by another"),
        pytest.param(HELD, 0.0, DURATION_SECONDS, True, id="not renewed for its duration"),
        pytest.param(HELD | {"leaseDurationSeconds": 30}, 0.0, 20.0, False, id="its own duration"),
        pytest.param(HELD | {"holderIdentity": "me"}, 0.0, 1.0, True, id="mine"),
    ],
)
def test_a_lease_is_taken_only_when_nobody_else_can_hold_it(spec, seen_at, now, want):
    sighting = Sighting(renewal=("", ""), at=seen_at)
    assert is_free(spec, sighting, identity="me", now=now) is want


def test_the_renewal_of_another_counts_from_when_it_was_first_seen_here():
    first = sighted(HELD, None, now=10.0)
    assert sighted(HELD, first, now=15.0) == first
    renewed = HELD | {"renewTime": "2026-01-01T00:00:02.000000Z"}
    assert sighted(renewed, first, now=15.0).at == 15.0


@pytest.mark.parametrize(
    ("now", "want"),
    [
        pytest.param(0.0, LOOK_SECONDS, id="just renewed"),
        pytest.param(DURATION_SECONDS - 0.25, 0.25, id="the last look is when the lease is over"),
        pytest.param(DURATION_SECONDS, LOOK_SECONDS, id="over, and another candidate was quicker"),
    ],
)
def test_who_waits_looks_soon_and_when_the_lease_is_over(now, want):
    sighting = Sighting(renewal=("", ""), at=0.0)
    assert time_to_look(HELD, sighting, now=now) == want


def test_the_worst_takeover_takes_less_than_the_issue_allows():
    seen_late = LOOK_SECONDS
    assert seen_late + DURATION_SECONDS < 15


def test_a_new_holder_counts_as_a_transition_and_a_renewal_does_not():
    taken = claimed(HELD, identity="me", moment="now")
    assert (taken["leaseTransitions"], taken["acquireTime"]) == (4, "now")
    again = claimed(taken, identity="me", moment="later")
    assert (again["leaseTransitions"], again["acquireTime"]) == (4, "now")
    assert again["renewTime"] == "later"
    assert claimed({}, identity="me", moment="now")["leaseTransitions"] == 0


def test_the_holder_stops_acting_before_anybody_else_may_begin():
    assert RENEW_SECONDS < DURATION_SECONDS


@pytest.fixture
def reach(control_plane, monkeypatch):
    """Makes the product's own client find the control plane."""
    monkeypatch.setitem(os.environ, "CONCERTINA_KUBECONFIG", str(control_plane.kubeconfig))


def a_lease(api, namespace, identity, **options):
    return Lease(api, namespace=namespace, name="test", identity=identity, **options)


@pytest.mark.usefixtures("reach")
def test_one_candidate_wins_and_the_other_takes_over_what_is_given_up(namespace):
    async def test():
        async with Api() as api:
            first, second = (a_lease(api, namespace, name) for name in ("first", "second"))
            async with asyncio.timeout(30):
                await first.acquire()
                waiting = asyncio.create_task(second.acquire())
                await api.call("GET", paths.leases(namespace, "test"))
                assert first.may_act()
                assert not second.may_act()
                await first.release()
                assert not first.may_act()
                await waiting
                assert second.may_act()
            lease = await api.call("GET", paths.leases(namespace, "test"))
            assert lease["spec"]["holderIdentity"] == "second"
            assert lease["spec"]["leaseTransitions"] == 1

    asyncio.run(test())


@pytest.mark.usefixtures("reach")
def test_a_lease_is_given_up_also_when_its_last_renewal_was_not_heard_of(namespace):
    async def test():
        async with Api() as api:
            lease = a_lease(api, namespace, "me")
            await lease.acquire()
            path = paths.leases(namespace, "test")
            renewed = await api.call("GET", path)
            renewed["spec"]["renewTime"] = "2099-01-01T00:00:00.000000Z"
            await api.call("PUT", path, body=renewed)
            await lease.release()
            assert (await api.call("GET", path))["spec"]["holderIdentity"] == ""

    asyncio.run(test())


@pytest.mark.usefixtures("reach")
def test_a_holder_whose_time_is_over_can_write_nothing(namespace):
    now = 0.0

    async def test():
        nonlocal now
        async with Api() as unfenced:
            lease = a_lease(unfenced, namespace, "me", clock=lambda: now)
            await lease.acquire()
            async with Api(may_write=lease.may_act) as api:
                made = {"metadata": {"name": "a"}, "apiVersion": "v1", "kind": "ConfigMap"}
                path = f"/api/v1/namespaces/{namespace}/configmaps"
                now = RENEW_SECONDS - 0.001
                await api.call("POST", path, body=made)
                now = RENEW_SECONDS
                for verb, at in (("POST", path), ("DELETE", f"{path}/a"), ("PATCH", f"{path}/a")):
                    with pytest.raises(Deposed):
                        await api.call(verb, at, body=made)
                assert (await api.call("GET", f"{path}/a"))["metadata"]["name"] == "a"

    asyncio.run(test())


async def until_renewed(lease, answers):
    """The answers up to the next renewal that the server took."""
    answers.clear()
    keeping = asyncio.create_task(lease.keep())
    async with asyncio.timeout(30):
        await answers.renewed.wait()
    assert lease.may_act()
    keeping.cancel()
    return list(answers)


class Answers(list):
    """Verbs and statuses of what the server answered."""

    def __init__(self):
        super().__init__()
        self.renewed = asyncio.Event()

    def __call__(self, verb, status):
        self.append((verb, status))
        if (verb, status) == ("PUT", 200):
            self.renewed.set()


@pytest.mark.usefixtures("reach")
@pytest.mark.parametrize(
    ("is_touched", "want"),
    [
        pytest.param(False, [("PUT", 200)], id="one write and no read"),
        pytest.param(True, [("PUT", 409), ("GET", 200), ("PUT", 200)], id="somebody touched it"),
    ],
)
def test_the_holder_renews_its_lease(namespace, is_touched, want):
    async def test():
        answers = Answers()
        async with Api(on_answer=answers) as api, Api() as somebody:
            lease = a_lease(api, namespace, "me")
            await lease.acquire()
            if is_touched:
                path = paths.leases(namespace, "test")
                found = await somebody.call("GET", path)
                found["metadata"]["labels"] = {"touched": "yes"}
                await somebody.call("PUT", path, body=found)
            return await until_renewed(lease, answers)

    assert asyncio.run(test()) == want


@pytest.mark.usefixtures("reach")
def test_a_lease_that_another_has_taken_is_lost(namespace):
    async def test():
        async with Api() as api:
            lease = a_lease(api, namespace, "me")
            await lease.acquire()
            path = paths.leases(namespace, "test")
            taken = await api.call("GET", path)
            spec = claimed(taken["spec"], identity="other", moment=taken["spec"]["renewTime"])
            await api.call("PUT", path, body={**taken, "spec": spec})
            async with asyncio.timeout(30):
                await lease.keep()
            assert not lease.may_act()

    asyncio.run(test())
