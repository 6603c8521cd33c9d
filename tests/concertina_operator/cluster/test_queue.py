import asyncio

import pytest

from concertina_operator.cluster.queue import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, Queue


def within_a_loop(test):
    """Runs an asynchronous test to its end."""
    asyncio.run(test())


async def taken(queue, number):
    async with asyncio.timeout(10):
        return [await queue.take() for _ in range(number)]


def test_gives_keys_in_the_order_in_which_they_were_added_and_each_once():
    async def test():
        queue = Queue()
        for key in ("a", "b", "a", "c", "b"):
            queue.add(key)
        assert len(queue) == 3
        assert await taken(queue, 3) == ["a", "b", "c"]
        assert len(queue) == 0

    within_a_loop(test)


def test_a_key_that_is_added_while_it_is_worked_on_waits_for_the_end_of_it():
    async def test():
        queue = Queue()
        queue.add("a")
        assert await taken(queue, 1) == ["a"]
        queue.add("a")
        queue.add("b")
        assert await taken(queue, 1) == ["b"]
        next_one = asyncio.create_task(queue.take())
        await asyncio.sleep(0)
        assert not next_one.done()
        queue.done("a")
        assert await next_one == "a"

    within_a_loop(test)


def test_a_key_that_was_not_added_again_is_not_given_again():
    async def test():
        queue = Queue()
        queue.add("a")
        await taken(queue, 1)
        queue.done("a")
        assert len(queue) == 0

    within_a_loop(test)


def test_an_earlier_wish_to_look_again_stands_against_a_later_one():
    async def test():
        queue = Queue()
        queue.add_after("a", 0.01)
        queue.add_after("a", 3600)
        assert await taken(queue, 1) == ["a"]

    within_a_loop(test)


def test_a_later_wish_gives_way_to_an_earlier_one():
    async def test():
        queue = Queue()
        queue.add_after("a", 3600)
        queue.add_after("a", 0.01)
        assert await taken(queue, 1) == ["a"]

    within_a_loop(test)


def test_what_is_added_now_needs_no_look_later():
    async def test():
        queue = Queue()
        queue.add_after("a", 0.0)
        queue.add("a")
        await taken(queue, 1)
        queue.done("a")
        queue.add_after("b", 0.02)
        assert await taken(queue, 1) == ["b"]

    within_a_loop(test)


@pytest.mark.parametrize(
    ("failures", "want_about"),
    [
        pytest.param(1, FIRST_RETRY_SECONDS, id="first"),
        pytest.param(3, 4 * FIRST_RETRY_SECONDS, id="third"),
        pytest.param(40, LONGEST_RETRY_SECONDS, id="many"),
    ],
)
def test_a_job_that_keeps_failing_is_tried_less_and_less_often(failures, want_about):
    async def test():
        queue = Queue()
        for _ in range(failures):
            queue.add("a")
            await taken(queue, 1)
            delay = queue.failed("a")
        assert 0.8 * want_about <= delay <= 1.2 * want_about
        queue.add("a")
        await taken(queue, 1)
        queue.done("a")
        queue.add("a")
        await taken(queue, 1)
        assert queue.failed("a") <= 1.2 * FIRST_RETRY_SECONDS

    within_a_loop(test)


def test_tells_how_long_the_key_that_is_worked_on_longest_has_been():
    async def test():
        queue, loop = Queue(), asyncio.get_running_loop()
        assert queue.busiest_seconds() == 0
        queue.add("a")
        queue.add_after("b", 0.05)
        began = loop.time()
        await taken(queue, 2)
        assert 0.04 <= queue.busiest_seconds() <= loop.time() - began
        queue.done("a")
        assert queue.busiest_seconds() < 0.04
        queue.done("b")
        assert queue.busiest_seconds() == 0

    within_a_loop(test)


def test_tells_how_long_the_oldest_key_waits_also_while_it_is_worked_on():
    async def test():
        queue = Queue()
        assert queue.oldest_seconds() == 0
        queue.add("a")
        await taken(queue, 1)
        assert queue.oldest_seconds() == 0
        queue.add("a")
        loop = asyncio.get_running_loop()
        began = loop.time()
        queue.add_after("b", 0.05)
        await taken(queue, 1)
        assert 0.04 <= queue.oldest_seconds() <= loop.time() - began + 0.1

    within_a_loop(test)
