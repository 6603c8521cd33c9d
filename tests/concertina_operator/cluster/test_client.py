import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from concertina_operator.cluster.client import Api
from concertina_operator.cluster.credentials import Credentials
from concertina_operator.cluster.errors import (
    ApiError,
    Conflict,
    Deposed,
    Gone,
    NotFound,
    Refused,
    Throttled,
    Unreachable,
)


class Server:
    """Answers every request with the next of some prepared answers, and remembers the requests."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.tokens = []
        self.port = 0

    async def answer(self, request):
        self.tokens.append(request.headers.get("Authorization"))
        status, body, headers = self.answers.pop(0)
        return web.Response(status=status, text=body, headers=headers)

    def credentials(self):
        """Another token at each reading."""
        number = len(self.tokens)
        url = f"http://127.0.0.1:{self.port}"
        return Credentials(server=url, authorization=f"Bearer {number}")


def an_answer(status=200, *, headers=None, **body):
    return status, json.dumps(body), headers or {}


@asynccontextmanager
async def served(server, **options):
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        async with Api(credentials=server.credentials, **options) as api:
            yield api
    finally:
        await runner.cleanup()


def asked(server, verb="GET", **options):
    async def ask():
        async with served(server, **options) as api, asyncio.timeout(20):
            return await api.call(verb, "/path")

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("status", "want"),
    [
        (400, Refused),
        (403, Refused),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (422, Refused),
        (500, ApiError),
    ],
)
def test_an_error_tells_status_reason_and_message(status, want):
    with pytest.raises(want) as caught:
        asked(Server(an_answer(status, reason="Because", message="in words")))
    error = caught.value
    assert (error.status, error.reason, error.message) == (status, "Because", "in words")


def test_an_error_that_is_no_document_is_told_as_it_is():
    with pytest.raises(ApiError, match="<html>bad gateway"):
        asked(Server((502, "<html>bad gateway", {})))


def test_waits_as_long_as_the_server_says_when_it_is_busy():
    server = Server(an_answer(429, headers={"Retry-After": "1"}), an_answer(answer=1))
    began = asyncio.new_event_loop()
    start = began.time()
    assert asked(server) == {"answer": 1}
    assert began.time() - start >= 1
    began.close()


def test_gives_up_on_a_server_that_stays_busy():
    busy = an_answer(429, headers={"Retry-After": "0"}, message="too many")
    with pytest.raises(Throttled, match="too many"):
        asked(Server(*[busy] * 5))


def test_reads_the_token_anew_when_it_is_refused():
    server = Server(an_answer(401), an_answer(answer=1))
    assert asked(server) == {"answer": 1}
    assert server.tokens == ["Bearer 0", "Bearer 1"]


def test_a_token_that_is_refused_twice_is_an_error():
    with pytest.raises(ApiError, match="401"):
        asked(Server(an_answer(401), an_answer(401)))


def test_a_server_that_is_not_there_is_unreachable():
    nowhere = Credentials(server="http://127.0.0.1:1")

    async def ask():
        async with Api(credentials=lambda: nowhere) as api:
            await api.call("GET", "/path")

    with pytest.raises(Unreachable):
        asyncio.run(ask())


def test_who_may_not_write_may_still_read():
    server = Server(an_answer(answer=1))
    assert asked(server, may_write=lambda: False) == {"answer": 1}
    with pytest.raises(Deposed):
        asked(Server(), "POST", may_write=lambda: False)


def test_the_fence_is_asked_again_before_each_new_attempt():
    allowed = [True, False]
    server = Server(an_answer(429, headers={"Retry-After": "0"}))
    with pytest.raises(Deposed):
        asked(server, "POST", may_write=lambda: allowed.pop(0))
    assert len(server.tokens) == 1


class BusyServer(Server):
    """Answers nothing until it is let."""

    def __init__(self):
        super().__init__()
        self.is_let = asyncio.Event()
        self.paths = []
        self.asked = asyncio.Event()

    async def answer(self, request):
        self.paths.append(request.path)
        self.asked.set()
        await self.is_let.wait()
        return web.json_response({})


def test_a_write_that_waited_for_its_turn_is_not_sent_by_who_was_deposed_meanwhile():
    leads = True

    async def test():
        nonlocal leads
        server = BusyServer()
        async with served(server, may_write=lambda: leads) as api, asyncio.timeout(20):
            calls = [asyncio.create_task(api.call("POST", "/in-hand")) for _ in range(200)]
            await server.asked.wait()
            late = asyncio.create_task(api.call("DELETE", "/late"))
            await asyncio.sleep(0)
            leads = False
            server.is_let.set()
            with pytest.raises(Deposed):
                await late
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert "/late" not in server.paths
        assert outcomes.count({}) == len(server.paths)
        assert all(outcome == {} or isinstance(outcome, Deposed) for outcome in outcomes)

    asyncio.run(test())


def test_a_write_is_not_sent_by_who_was_deposed_while_the_token_was_read():
    class DeposingServer(Server):
        leads = True

        def credentials(self):
            self.leads = False
            return super().credentials()

    server = DeposingServer()
    with pytest.raises(Deposed):
        asked(server, "POST", may_write=lambda: server.leads)
    assert server.tokens == []


def test_only_what_was_done_counts_as_success():
    async def test():
        server = Server(an_answer(404), an_answer(500), an_answer(403), an_answer(201))
        async with served(server) as api:
            before = api.succeeded_at
            for error in (NotFound, ApiError, Refused):
                with pytest.raises(error):
                    await api.call("GET", "/path")
                assert api.succeeded_at == before
            await api.call("POST", "/path")
            assert api.succeeded_at > before

    asyncio.run(test())


def test_every_answer_is_counted():
    seen = []
    server = Server(an_answer(429, headers={"Retry-After": "0"}), an_answer(404))
    with pytest.raises(NotFound):
        asked(server, on_answer=lambda verb, status: seen.append((verb, status)))
    assert seen == [("GET", 429), ("GET", 404)]


def watched(server):
    async def watch():
        async with served(server) as api, asyncio.timeout(20):
            return [event async for event in api.watch("/path", params={})]

    return asyncio.run(watch())


def lines(*events):
    return 200, "".join(json.dumps(event) + "\n" for event in events), {}


def test_a_watch_gives_its_events_until_the_server_ends_it():
    events = [{"type": "ADDED", "object": {"n": n, "long": "x" * 200_000}} for n in range(3)]
    assert watched(Server(lines(*events))) == events


def test_an_error_in_a_watch_is_raised_as_what_it_is():
    error = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}
    with pytest.raises(Gone, match="too old"):
        watched(Server(lines(error)))


def test_a_watch_that_is_cut_off_in_the_middle_of_a_line_is_unreachable():
    with pytest.raises(Unreachable):
        watched(Server((200, '{"type": "ADDED", "obj', {})))
