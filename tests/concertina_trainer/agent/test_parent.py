import os
import signal
import subprocess
import sys

from concertina_trainer.agent.parent import AGENT_PID
from tests.concertina_trainer.agent.pods import has_ended, wait_for

# A parent that starts a child, prints the child's process id once it is protected, and waits.
PARENT = """
import os, subprocess, sys
os.environ["CONCERTINA_AGENT_PID"] = str(os.getpid())
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""
CHILD = """
import signal
from concertina_trainer.agent.parent import die_with_parent
die_with_parent()
print("protected", flush=True)
signal.pause()
"""


def test_a_worker_dies_with_an_agent_that_is_killed():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True
    )
    with parent:
        child = int(parent.stdout.readline())
        assert not has_ended(child)
        parent.kill()

    wait_for(lambda: has_ended(child), lambda: f"process {child} ends")


def test_a_worker_whose_agent_ended_before_it_looked_dies_at_once():
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        env={**os.environ, AGENT_PID: str(2**22 - 1)},  # nobody's parent
        capture_output=True,
    )

    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b""


def test_without_an_agent_nothing_happens():
    environment = {name: value for name, value in os.environ.items() if name != AGENT_PID}
    code = CHILD.replace("signal.pause()", "")

    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)

    assert (done.returncode, done.stdout) == (0, b"protected\n")
