import asyncio

import pytest

from concertina_operator.cluster.client import Api
from concertina_operator.cluster.store import Key
from tests.concertina_operator.cluster.followed import Followed


@pytest.fixture(autouse=True)
def reach(control_plane, monkeypatch):
    """Makes the product's own client find the control plane."""
    monkeypatch.setenv("CONCERTINA_KUBECONFIG", str(control_plane.kubeconfig))


def with_followed(test, namespace):
    async def run():
        async with Api() as api:
            await test(Followed(api, namespace))

    asyncio.run(run())


def test_knows_what_was_there_and_what_changes(namespace):
    async def test(followed):
        await followed.create("before")
        async with followed.running():
            assert followed.known() == {"before": "1"}
            await followed.create("after")
            await followed.replace("before", "2")
            await followed.until(lambda: followed.known() == {"before": "2", "after": "1"})
            await followed.delete("before")
            await followed.until(lambda: followed.known() == {"after": "1"})
        assert followed.told == [
            ("before", "1", True),
            ("after", "1", True),
            ("before", "2", True),
            ("before", "2", False),
        ]

    with_followed(test, namespace)


def test_a_change_of_what_nobody_reads_is_not_told(namespace):
    async def test(followed):
        await followed.create("mine")
        async with followed.running():
            await followed.replace("mine", "1", colour="blue")
            await followed.create("next")
            await followed.until(lambda: "next" in followed.known())
        assert [name for name, _, _ in followed.told] == ["mine", "next"]

    with_followed(test, namespace)


def test_tells_of_what_vanished_while_it_was_cut_off(namespace):
    async def test(followed):
        await followed.create("stays")
        await followed.create("goes")
        async with followed.running():
            assert set(followed.known()) == {"stays", "goes"}
        await followed.delete("goes")
        async with followed.running():
            assert set(followed.known()) == {"stays"}
        assert followed.told[-1] == ("goes", "1", False)

    with_followed(test, namespace)


def test_an_answer_to_an_own_write_is_known_at_once_and_told_once(namespace):
    async def test(followed):
        async with followed.running():
            followed.reflector.take_answer(await followed.create("mine"))
            assert followed.store.get(Key(followed.namespace, "mine")) == "1"
            await followed.create("next")
            await followed.until(lambda: "next" in followed.known())
        assert [name for name, _, _ in followed.told] == ["mine", "next"]

    with_followed(test, namespace)


def test_a_watch_on_which_there_is_nothing_to_say_is_heard_when_the_server_ends_it(
    namespace, monkeypatch
):
    monkeypatch.setattr("concertina_operator.cluster.client.WATCH_SECONDS", 1)

    async def test(followed):
        async with followed.running(), asyncio.timeout(30):
            listed_at = followed.reflector.heard_at
            while followed.reflector.heard_at < listed_at + 2:  # noqa: ASYNC110 - silence tells nothing
                await asyncio.sleep(0.05)
        assert followed.told == []

    with_followed(test, namespace)
