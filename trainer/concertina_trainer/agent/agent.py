"""The live agent: torch's elastic agent for one pod, whose workers outlive every membership.

torch's agent starts, watches and stops the workers. What it would do at a change of the
membership (stop them all, meet, start them all) is what this one leaves out: its rendezvous names
nobody but itself and is done at once, workers start before any round knows them, and rounds reach
them through the mailbox.

Private names of torch 2.15 that this module needs, all of them on the agent: the hooks
`_start_workers`, `_monitor_workers` and `_exit_barrier`, and the number `_remaining_restarts`.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

# torch.distributed re-exports these without declaring it to type checkers.
from torch._C._distributed_c10d import HashStore, TCPStore
from torch.distributed.elastic.agent.server.api import (
    RunResult,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
)

from concertina_trainer.agent.failure import End, ended
from concertina_trainer.agent.parent import AGENT_PID
from concertina_trainer.agent.pod import Pod
from concertina_trainer.agent.settings import Settings
from concertina_trainer.agent.stores import Server
from concertina_trainer.agent.worker_logs import WorkerLogs

TURN_SECONDS = 0.1
DEFAULT_PROGRAM = ("-m", "concertina_trainer.worker")


class LiveAgent(LocalElasticAgent):
    """Keeps the workers of one pod running and ends with them."""

    def __init__(
        self, pod: Pod, spec: WorkerSpec, logs: WorkerLogs, *, line_prefix: str | None = None
    ) -> None:
        super().__init__(spec, logs, log_line_prefix_template=line_prefix)
        self._pod = pod
        self._logs = logs

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._pod.begin()
        os.environ["CONCERTINA_INCARNATION"] = self._pod.incarnation
        os.environ[AGENT_PID] = str(os.getpid())
        ids: dict[int, Any] = super()._start_workers(worker_group)
        return ids

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        pids = {worker.local_rank: worker.id for worker in worker_group.workers}
        now = time.monotonic()
        self._pod.turn(now=now)
        _kill(pids[local_rank] for local_rank in self._pod.silent)
        self._logs.trim()
        ends = ended(pids)
        failed = any(end.code for end in ends)
        if failed:
            self._pod.record_failure(ends)
        if failed or self._pod.must_end(now=now):
            _kill(pids.values())
        result: RunResult = super()._monitor_workers(worker_group)
        if result.state is WorkerState.FAILED:
            if not failed:  # torch alone saw the end of one that died just now
                self._pod.record_failure(
                    tuple(
                        End(local_rank=failure.local_rank, code=failure.exitcode)
                        for failure in result.failures.values()
                    )
                )
            self._remaining_restarts = 0 if self._pod.given_up else 1
        return result

    def _exit_barrier(self) -> None:
        """Leavers do not wait for those who stay."""


def live_agent(
    settings: Settings, pod: Pod, program: Sequence[str], *, line_prefix: str | None = None
) -> LiveAgent:
    """The agent of a pod, ready to `run()`.

    `program` are the arguments of the workers' Python; empty means Concertina's own worker.
    `line_prefix` stands before each line of a worker in the output here; None: torch's own.
    """
    # SIGTERM and SIGINT are orders to leave; torch would take them for the end.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"
    # A broken collective is answered by a new round; the watchdog must not end the process.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    os.environ["CONCERTINA_MAILBOX"] = str(settings.mailbox)
    os.environ["CONCERTINA_JOB"] = str(settings.manifest)
    spec = WorkerSpec(
        role="worker",
        local_world_size=settings.job.spec.pods.workers_per_pod,
        entrypoint=sys.executable,
        args=("-u", *(program or DEFAULT_PROGRAM)),
        rdzv_handler=Alone(settings.job.metadata.name),
        max_restarts=1,
        monitor_interval=TURN_SECONDS,
    )
    return LiveAgent(pod, spec, WorkerLogs(settings, pod), line_prefix=line_prefix)


class Alone(RendezvousHandler):
    """A rendezvous of this agent with itself: rounds are met by the workers, not by agents."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def next_rendezvous(self) -> RendezvousInfo:
        """Rank 0 of 1, at once."""
        return RendezvousInfo(HashStore(), 0, 1, RendezvousStoreInfo("localhost", 0))

    def num_nodes_waiting(self) -> int:
        """Nobody: a newer membership never restarts workers."""
        return 0

    def get_backend(self) -> str:
        """Name for torch's log."""
        return "alone"

    def get_run_id(self) -> str:
        """Name of the job."""
        return self._run_id

    def is_closed(self) -> bool:
        """Never."""
        return False

    def set_closed(self) -> None:
        """Nothing is open."""

    def shutdown(self) -> bool:
        """Nothing to end."""
        return True


def bind_store() -> Server:
    """A store on a free port of all interfaces; the agent itself reaches it as localhost."""
    return TCPStore("localhost", 0, is_master=True, wait_for_workers=False)


def _kill(pids: Iterable[int]) -> None:
    """End workers and what they started: torch makes each the leader of its process group."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
