import asyncio

from click.testing import CliRunner

from concertina_operator.cluster.rate import Rate
from concertina_operator.cluster.serve import main


def seconds_of(turns, rate):
    async def take():
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(30):
            for _ in range(turns):
                await rate.turn()
        return loop.time() - began

    return asyncio.run(take())


def test_a_first_burst_waits_for_nothing():
    seconds_of(5, Rate(per_second=0.001, burst=5))


def test_after_the_burst_turns_come_at_the_rate():
    assert seconds_of(5 + 21, Rate(per_second=200, burst=5)) >= 20 / 200


def test_turns_that_were_not_taken_are_a_burst_again_and_no_more():
    rate = Rate(per_second=200, burst=5)
    seconds_of(5, rate)
    assert seconds_of(5 + 21, rate) >= 20 / 200


def test_the_command_line_takes_no_rate_at_which_nothing_is_ever_created():
    shown = CliRunner().invoke(main, ["--pods-per-second", "0"])
    assert shown.exit_code == 2
    assert "--pods-per-second" in shown.output
