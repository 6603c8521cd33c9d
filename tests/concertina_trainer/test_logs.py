import json
import logging
import subprocess
import sys
import warnings

import pytest

from concertina_trainer.logs import FORMAT_VARIABLE, set_up_logs


@pytest.fixture
def set_up(monkeypatch):
    """Sets up the logs as if nobody had, and puts back what pytest has set up."""
    root = logging.getLogger()
    level, shown = root.level, warnings.showwarning

    def call(text="%(message)s", **environment):
        monkeypatch.setattr(root, "handlers", [])
        return set_up_logs(environment, text=text)

    yield call
    logging.captureWarnings(capture=False)
    warnings.showwarning = shown
    root.setLevel(level)


def objects(capsys):
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_objects_hold_the_message_and_what_is_known(set_up, capsys):
    logs = set_up(CONCERTINA_LOG_FORMAT="json")
    logging.getLogger("a.b").info("step %d\n%s", 3, "done")
    number = 1
    logs.know(job="tiny", rank=lambda: None, round=lambda: number)
    number = 2
    logging.getLogger("a.b").warning("again")

    first, second = objects(capsys)
    assert first.pop("time").endswith("+00:00")
    assert first == {"level": "INFO", "logger": "a.b", "message": "step 3\ndone"}
    assert second.items() >= {"level": "WARNING", "job": "tiny", "round": 2}.items()
    assert "rank" not in second


def test_exceptions_and_warnings_are_parts_of_objects(set_up, capsys):
    set_up(CONCERTINA_LOG_FORMAT="json")
    try:
        raise ValueError('no "luck"')
    except ValueError:
        logging.getLogger("a").exception("failed")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", UserWarning, stacklevel=1)

    failed, warned = objects(capsys)
    assert failed["exception"].endswith('ValueError: no "luck"')
    assert "UserWarning: old" in warned["message"]


@pytest.mark.parametrize("chosen", [{}, {FORMAT_VARIABLE: ""}, {FORMAT_VARIABLE: "text"}])
def test_text_is_what_is_written_by_default(set_up, capsys, chosen):
    logs = set_up("%(levelname)s-%(message)s", **chosen)
    logs.know(job="tiny")
    logging.getLogger("a").info("x")

    assert capsys.readouterr().err == "INFO-x\n"
    assert logs.line_prefix is None


def test_a_format_that_is_unknown_is_told_and_text_is_written(set_up, capsys):
    set_up(CONCERTINA_LOG_FORMAT="xml")

    want = "CONCERTINA_LOG_FORMAT='xml' is neither text nor json: writing text\n"
    assert capsys.readouterr().err == want


def test_the_level_is_that_of_the_environment(set_up, capsys):
    set_up(CONCERTINA_LOG_LEVEL="ERROR")
    logging.getLogger("a").warning("x")

    assert capsys.readouterr().err == ""


def test_lines_of_torch_are_objects_too():
    program = """
import logging
from concertina_trainer.logs import set_up_logs
logs = set_up_logs({"CONCERTINA_LOG_FORMAT": "json"}, text="")
import torch
logs.adopt("torch")
logging.getLogger("torch.distributed.elastic").warning("told once")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    (line,) = ended.stderr.splitlines()
    assert json.loads(line)["message"] == "told once"
