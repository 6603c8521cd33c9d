"""Pods as processes: one agent process stands for each pod. Used by the shell alone.

A pod is its agent and everything that the agent started. All of it carries CONCERTINA_UID, drawn
anew at each start, and CONCERTINA_SHELL, one value per shell, in its environment: that is how the
rest of a pod is found when its agent has ended, and how nothing is left when the shell ends, in
order or by kill -9 (see sweeper.py).
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from concertina_api.errors import ConcertinaError
from concertina_operator.grace import DEFAULT_GRACE_SECONDS
from concertina_operator.local.directory import RunDirectory
from concertina_operator.local.sweeper import end_marked
from concertina_operator.observed import Phase, PodFacts
from concertina_operator.steady_clock import SteadyClock

AGENT_COMMAND: Final = (sys.executable, "-m", "concertina_trainer.agent")

_SHELL: Final = "CONCERTINA_SHELL"
_UID: Final = "CONCERTINA_UID"


@dataclass(slots=True, kw_only=True)
class _Pod:
    """One agent process and what became of it."""

    name: str
    uid: str
    process: subprocess.Popen[bytes]
    created: datetime
    port: int
    """Where it serves its metrics; 0 when it does not."""
    killed_at: float | None = None
    """When the pod is killed, in seconds of time.monotonic(); None until it is deleted."""
    swept: bool = False


class LocalPods:
    """The pods of one run. Leaving the context ends all their processes."""

    def __init__(
        self,
        directory: RunDirectory,
        *,
        agent_command: Sequence[str] = AGENT_COMMAND,
        grace_seconds: int = DEFAULT_GRACE_SECONDS,
        metrics_port: int | None = None,
        clock: SteadyClock | None = None,
    ) -> None:
        """A pod serves metrics on the lowest port from `metrics_port` on that no living pod has.

        Without one there are none. `clock`: that by which the ages of pods are told.
        """
        self._clock = clock or SteadyClock()
        self._directory = directory
        self._command = tuple(agent_command)
        self._grace_seconds = grace_seconds
        self._metrics_port = metrics_port
        self._mark = secrets.token_hex(8)
        self._pods: dict[str, _Pod] = {}
        self._sweeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._sweeper = subprocess.Popen(
            [sys.executable, "-m", "concertina_operator.local.sweeper", _SHELL, self._mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            # With the lock shared, no other run takes the directory before the sweep is over.
            pass_fds=[self._directory.lock],
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end_all()
        if self._sweeper is not None:
            assert self._sweeper.stdin is not None
            self._sweeper.stdin.close()
            self._sweeper.wait()

    def facts(self) -> tuple[PodFacts, ...]:
        """The pods as they are now; a deleted one is listed until its processes have ended."""
        self._tend()
        return tuple(_facts(pod) for pod in self._pods.values())

    def create(self, name: str) -> None:
        """Starts an agent; a name that exists is success."""
        if name in self._pods:
            return
        folder = self._directory.pod(name)
        folder.mkdir(parents=True, exist_ok=True)
        self._directory.report(name).unlink(missing_ok=True)
        uid = secrets.token_hex(6)
        port = self._free_port()
        environment = os.environ | self._environment(name, uid=uid, port=port)
        with ExitStack() as stack:
            log = stack.enter_context((folder / "agent.log").open("ab"))
            try:
                process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,  # the keyboard's Ctrl-C reaches the shell alone
                )
            except OSError as error:
                raise ConcertinaError(
                    f"cannot start the agent {self._command[0]}: {error.strerror}"
                ) from error
        self._pods[name] = _Pod(
            name=name, uid=uid, process=process, created=self._clock.now(), port=port
        )

    def delete(self, name: str, *, uid: str, grace_seconds: int | None = None) -> None:
        """Tells the pod to end, and kills it after the grace; a pod that is gone is success."""
        pod = self._pods.get(name)
        if pod is None or pod.uid != uid:
            return
        grace = self._grace_seconds if grace_seconds is None else grace_seconds
        deadline = time.monotonic() + grace
        if pod.killed_at is None and pod.process.poll() is None:
            pod.process.send_signal(signal.SIGTERM)
        pod.killed_at = deadline if pod.killed_at is None else min(pod.killed_at, deadline)
        self._tend()

    def log_file(self, name: str) -> Path:
        """What the pod's agent and workers printed."""
        return self._directory.pod(name) / "agent.log"

    def end_all(self) -> None:
        """Kills every process of every pod and waits until all are gone."""
        end_marked(_SHELL, self._mark)
        for pod in self._pods.values():
            pod.process.wait()
        self._pods.clear()

    def _tend(self) -> None:
        """Kills what outlived its grace or its agent, and forgets deleted pods that ended."""
        for pod in list(self._pods.values()):
            overdue = pod.killed_at is not None and time.monotonic() >= pod.killed_at
            if overdue and pod.process.poll() is None:
                end_marked(_UID, pod.uid)
                pod.process.wait()
            if pod.process.poll() is None:
                continue
            if not pod.swept:
                end_marked(_UID, pod.uid)
                pod.swept = True
            if pod.killed_at is not None:
                del self._pods[pod.name]

    def _free_port(self) -> int:
        if self._metrics_port is None:
            return 0
        taken = {pod.port for pod in self._pods.values() if pod.process.poll() is None}
        return next(port for port in count(self._metrics_port) if port not in taken)

    def _environment(self, name: str, *, uid: str, port: int) -> Mapping[str, str]:
        return {
            "CONCERTINA_JOB": str(self._directory.job),
            "CONCERTINA_POD": name,
            _UID: uid,
            _SHELL: self._mark,
            "CONCERTINA_MEMBERSHIP": str(self._directory.membership),
            "CONCERTINA_REPORT": str(self._directory.report(name)),
            "CONCERTINA_HOST": "127.0.0.1",
            "CONCERTINA_METRICS_PORT": str(port),
            "CONCERTINA_RUN_DIR": str(self._directory.path),
            "CONCERTINA_GRACE_SECONDS": str(self._grace_seconds),
        }


def _facts(pod: _Pod) -> PodFacts:
    exit_code = pod.process.poll()
    return PodFacts(
        name=pod.name,
        uid=pod.uid,
        created=pod.created,
        phase=_phase(exit_code),
        deleting=pod.killed_at is not None,
        exit_code=exit_code,
    )


def _phase(exit_code: int | None) -> Phase:
    if exit_code is None:
        return Phase.RUNNING
    return Phase.SUCCEEDED if exit_code == 0 else Phase.FAILED
