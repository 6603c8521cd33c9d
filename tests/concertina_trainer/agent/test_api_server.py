import json
import socket
import ssl
import threading

import pytest

from concertina_trainer.agent.api_server import Access, ApiError, ApiServer
from tests.concertina_trainer.agent.kubernetes import NAMESPACE

REPORT = {"metadata": {"name": "tiny-0"}, "spec": {}}


def failure(call):
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value


def get(api, name="tiny-0"):
    return api.call("GET", api.path("trainingreports", name))


def test_an_object_is_created_read_and_patched(api, kubernetes):
    made = api.call("POST", api.path("trainingreports"), body=REPORT)
    patched = api.call(
        "PATCH",
        api.path("trainingreports", "tiny-0"),
        body={"spec": {"round": 2}},
        content_type="application/merge-patch+json",
    )

    assert made["metadata"]["resourceVersion"] < patched["metadata"]["resourceVersion"]
    assert get(api)["spec"] == {"round": 2}
    assert [request.method for request in kubernetes.requests] == ["POST", "PATCH", "GET"]
    assert kubernetes.requests[1].content_type == "application/merge-patch+json"


def test_the_token_is_read_anew_for_each_request(api, kubernetes):
    kubernetes.put("trainingreports", REPORT)
    get(api)
    kubernetes.token = "second"
    assert failure(lambda: get(api)).status == 401

    kubernetes.credentials.joinpath("token").write_text("second")

    assert get(api)["metadata"]["name"] == "tiny-0"


def test_a_refusal_is_told_in_the_words_of_the_server(api, kubernetes):
    status = {"reason": "TooManyRequests", "message": "later", "details": {"name": "x"}}
    kubernetes.fail(429, headers={"Retry-After": "7"}, body=json.dumps(status).encode())

    error = failure(lambda: get(api))

    assert (error.status, error.reason, error.name) == (429, "TooManyRequests", "x")
    assert error.retry_after_seconds == 7
    assert str(error).endswith("/trainingreports/tiny-0: 429 later")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<html>", id="not JSON"),
        pytest.param(b"[]", id="not an object"),
        pytest.param(b'{"details": 3, "reason": null}', id="no Status"),
        pytest.param(b"\xff", id="not text"),
    ],
)
def test_a_refusal_in_any_form_is_one(api, kubernetes, body):
    kubernetes.fail(500, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, body=body)

    error = failure(lambda: get(api))

    assert error.status == 500
    assert error.retry_after_seconds == 0


def test_only_an_object_that_the_server_knows_to_be_missing_is_missing(api, kubernetes):
    assert failure(lambda: get(api)).says_missing("tiny-0")

    kubernetes.fail(404, body=b"404 page not found")
    assert not failure(lambda: get(api)).says_missing("tiny-0")


@pytest.mark.parametrize("body", [b"hello", b"[]", b""])
def test_an_answer_that_is_no_object_is_an_error(api, kubernetes, body):
    kubernetes.fail(200, body=body)

    assert failure(lambda: get(api)).status == 0


def test_a_server_of_another_authority_is_not_believed(api, kubernetes):
    kubernetes.put("trainingreports", REPORT)
    kubernetes.credentials.joinpath("ca.crt").unlink()  # now the system's authorities count

    assert "CERTIFICATE_VERIFY_FAILED" in str(failure(lambda: get(api)))
    assert not kubernetes.requests


def test_an_authority_that_lacks_what_newer_pythons_ask_for_is_believed(
    api, kubernetes, monkeypatch
):
    def strict(*arguments, **options):
        context = ordinary(*arguments, **options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    ordinary = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", strict)  # as Python 3.13 does
    kubernetes.put("trainingreports", REPORT)

    assert get(api)["metadata"]["name"] == "tiny-0"


def test_a_token_that_cannot_be_read_is_an_error_like_any_other(api, kubernetes):
    kubernetes.credentials.joinpath("token").unlink()

    assert "No such file" in str(failure(lambda: get(api)))


def test_a_server_that_is_away_or_says_nothing_is_an_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        access = Access(
            host="127.0.0.1",
            port=mute.getsockname()[1],
            namespace=NAMESPACE,
            credentials=tmp_path,
        )
        api = ApiServer(access, request_seconds=0.1)
        assert "no answer in time" in str(failure(lambda: get(api)))

    assert "refused" in str(failure(lambda: get(api)))


def watch(api, silence_seconds=5.0):
    path = f"{api.path('trainingmemberships')}?watch=1&timeoutSeconds=60"
    return api.watch(path, silence_seconds=silence_seconds)


def test_a_watch_tells_events_until_it_is_silent_for_too_long(api, kubernetes):
    with watch(api, silence_seconds=0.3) as stream:
        events = iter(stream)
        kubernetes.put("trainingmemberships", {"metadata": {"name": "tiny"}})
        assert next(events)["type"] == "ADDED"
        kubernetes.silent = True
        assert "no answer in time" in str(failure(lambda: next(events)))


def test_a_watch_is_ended_from_another_thread(api):
    with watch(api) as stream:
        threading.Timer(0.1, stream.abort).start()
        assert list(stream) == []
    stream.abort()  # ended already: nothing happens


def test_a_watch_goes_on_where_the_server_will_close_the_connection(api, kubernetes):
    event = {"type": "BOOKMARK", "object": {}}
    kubernetes.fail(200, headers={"Connection": "close"}, body=json.dumps(event).encode() + b"\n")

    with watch(api) as stream:
        assert list(stream) == [event]


@pytest.mark.parametrize("body", [b'{"type": "ADD', b"3\n"])
def test_an_event_that_is_cut_or_none_is_an_error(api, kubernetes, body):
    kubernetes.fail(200, body=body)

    with watch(api) as stream:
        assert failure(lambda: list(stream)).status == 0
