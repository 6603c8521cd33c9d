import io
import json
import logging
import re
import socket

import kopf
import pytest
from kopf._core.actions.loggers import ObjectLogger

from concertina_api.log_lines import JsonFormatter
from concertina_operator.cluster.logs import TextFormatter, about, of_job
from concertina_operator.cluster.store import Key
from tests.cluster.api import wait_for
from tests.cluster.certificates import write_kubeconfig
from tests.concertina_operator.cluster.processes import operator_process
from tests.concertina_operator.cluster.trainers import Trainers, a_trained_job

ALWAYS = {"time", "level", "logger", "message"}
BODY = {"kind": "Job", "metadata": {"namespace": "ml", "name": "from-kopf", "uid": "u"}}


def of_kopf():
    return ObjectLogger(body=kopf.Body(BODY), settings=kopf.OperatorSettings())


@pytest.fixture
def told():
    """What is logged while something is done, as objects."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonFormatter(about))

    def lines(do):
        logger = logging.getLogger("test-logs")
        for one in (logger, logging.getLogger("kopf")):
            one.addHandler(handler)
        try:
            do(logger)
        finally:
            for one in (logger, logging.getLogger("kopf")):
                one.removeHandler(handler)
        return [json.loads(line) for line in handler.stream.getvalue().splitlines()]

    return lines


def within_a_job(logger):
    with of_job(Key("ml", "tiny-lm")):
        logger.warning("it grows")


def of_a_pod(logger):
    with of_job(Key("ml", "tiny-lm")):
        logger.warning("it is gone", extra={"pod": "tiny-lm-0", "round": 7})


def from_kopf_within_another_job(_):
    with of_job(Key("ml", "tiny-lm")):
        of_kopf().warning("patched")


JOB = {"namespace": "ml", "job": "tiny-lm"}


@pytest.mark.parametrize(
    ("do", "want"),
    [
        pytest.param(lambda logger: logger.warning("x"), {}, id="of nothing"),
        pytest.param(within_a_job, JOB, id="of a job"),
        pytest.param(of_a_pod, JOB | {"pod": "tiny-lm-0", "round": 7}, id="of a pod in a round"),
        pytest.param(
            from_kopf_within_another_job,
            {"namespace": "ml", "job": "from-kopf"},
            id="kopf's own of an object",
        ),
    ],
)
def test_a_line_says_what_it_is_about(told, do, want):
    (line,) = told(do)
    assert {name: value for name, value in line.items() if name not in ALWAYS} == want
    assert line["level"] == "WARNING"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])


def test_an_error_of_many_lines_is_one_object(told):
    def fail(logger):
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logger.exception("it\nfailed")

    (line,) = told(fail)
    assert line["message"] == "it\nfailed"
    assert line["exception"].endswith("ValueError: two\nlines")


def text_of(message, **of_record):
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "x"} | of_record)
    return TextFormatter().format(record)


@pytest.mark.parametrize(
    ("message", "want"),
    [
        pytest.param("a b: \u00fc 'c' \\n", "a b: \u00fc 'c' \\n", id="what prints stays"),
        pytest.param("lost\n2026 CRITICAL it ends", r"lost\n2026 CRITICAL it ends", id="a line"),
        pytest.param("a\r\tb", r"a\r\tb", id="a cursor that goes back"),
        pytest.param("\x1b[2Ja\x7f", r"\x1b[2Ja\x7f", id="codes of a terminal"),
        pytest.param("a\u2028b\x85c\u202ed", r"a\u2028b\x85c\u202ed", id="Unicode's own"),
    ],
)
def test_words_of_others_make_no_line_of_text_of_their_own(message, want):
    assert text_of(message).endswith(f" INFO x {want}")


def test_a_traceback_in_text_keeps_its_lines():
    try:
        raise ValueError("wrong")
    except ValueError as error:
        text = text_of("a\nb", exc_info=(ValueError, error, error.__traceback__))
    first, second, *_, last = text.splitlines()
    assert first.endswith(r" INFO x a\nb")
    assert (second, last) == ("Traceback (most recent call last):", "ValueError: wrong")


def parsed(replica):
    return [json.loads(line) for line in replica.log.read_text().splitlines()]


def test_each_line_of_a_real_operator_is_an_object_that_says_what_it_is_about(
    start, api, namespace, tmp_path
):
    replica = start("log", CONCERTINA_LOG_FORMAT="json", CONCERTINA_LOG_LEVEL="DEBUG")
    trainers = Trainers(api=api, namespace=namespace)
    trainers.create(a_trained_job())
    trainers.until_trained_by("tiny-lm-0")
    trainers.imagined.ask(64)
    trainers.until_trained_by("tiny-lm-0", "tiny-lm-1")
    trainers.until(lambda: "Resized" in replica.log.read_text(), "the resize is not logged")
    replica.process.terminate()
    assert replica.process.wait(60) == 0

    lines = parsed(replica)
    assert all(line.keys() >= ALWAYS for line in lines)
    job = {"namespace": namespace, "job": "tiny-lm"}
    ours = [line for line in lines if line.get("job") == "tiny-lm"]
    assert all(line | job == line for line in ours)
    (created,) = [line for line in ours if "tiny-lm-1 is created" in line["message"]]
    assert (created["pod"], created["round"], created["level"]) == ("tiny-lm-1", 1, "INFO")
    (resized,) = [line for line in ours if "Resized" in line["message"]]
    assert resized["round"] == 2
    assert any(line["logger"].startswith("kopf") for line in lines)
    kubeconfig = json.loads((tmp_path / "kubeconfig").read_text())
    assert kubeconfig["users"][0]["user"]["token"] not in replica.log.read_text()


def test_what_ends_a_process_is_an_object_too(tmp_path):
    kubeconfig = write_kubeconfig(
        tmp_path / "kubeconfig", cluster={"server": "http://127.0.0.1:1"}, user={"token": "x"}
    )
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        variables = {"CONCERTINA_LOG_FORMAT": "json"}
        with operator_process(
            kubeconfig, "ml", tmp_path / "log", "--port", port, variables=variables
        ) as replica:
            assert replica.process.wait(60) == 1
    last = parsed(replica)[-1]
    assert (last["level"], last["logger"]) == ("CRITICAL", "concertina_operator.cluster.logs")
    assert "address already in use" in last["message"]
    assert "OSError" in last["exception"]


@pytest.mark.parametrize(
    ("name", "want", "want_code"),
    [
        pytest.param(
            "CONCERTINA_METRICS_TOKEN_FILE",
            "token file /nowhere: No such file or directory",
            1,
            id="a file that is not there",
        ),
        pytest.param(
            "CONCERTINA_METRICS_TLS_KEY_FILE",
            "a certificate needs its key: name both TLS files, or neither",
            2,
            id="half of a certificate",
        ),
        pytest.param("CONCERTINA_KUBECONFIG", "no cluster: ", 1, id="no cluster"),
    ],
)
def test_what_hinders_a_start_is_one_object_too(tmp_path, name, want, want_code):
    kubeconfig = write_kubeconfig(
        tmp_path / "kubeconfig", cluster={"server": "http://127.0.0.1:1"}, user={"token": "x"}
    )
    variables = {"CONCERTINA_LOG_FORMAT": "json", name: "/nowhere"}
    with operator_process(kubeconfig, "ml", tmp_path / "log", variables=variables) as replica:
        assert replica.process.wait(60) == want_code
    (line,) = parsed(replica)
    assert (line["level"], line["logger"]) == ("CRITICAL", "concertina_operator.cluster.serve")
    assert line["message"].startswith(f"cannot start: {want}")


def test_without_a_word_of_it_lines_are_text(tmp_path):
    kubeconfig = write_kubeconfig(
        tmp_path / "kubeconfig", cluster={"server": "http://127.0.0.1:1"}, user={"token": "x"}
    )
    with operator_process(kubeconfig, "ml", tmp_path / "log") as replica:
        want = r"[-\d]+ [:,\d]+ INFO concertina_operator\.cluster\.serve \S+ serves health"
        wait_for(lambda: re.match(want, replica.log.read_text()), lambda: replica.log.read_text())
