"""Workers without agents: the test plays operator and agents by files.

Each pod is one worker process, forked with torch imported. The test publishes memberships, and a
store per pod stands for the agents' stores.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from concertina_api.manifest import parse_job
from concertina_api.v1alpha1 import Intent, Member, Membership, PodPhase
from concertina_trainer.agent.mailbox import Inbox, Notice, WorkerStatus, put, worker_file
from tests.worlds import spawn

TIMEOUT_SECONDS = 120.0


@dataclass(kw_only=True)
class Pod:
    """A worker that stands for a pod of one."""

    name: str
    mailbox: Path
    process: BaseProcess
    store: Any
    inbox: Inbox[WorkerStatus] = field(init=False)

    def __post_init__(self) -> None:
        self.inbox = Inbox(worker_file(self.mailbox, 0), WorkerStatus)

    @property
    def status(self) -> WorkerStatus | None:
        return self.inbox.read()

    @property
    def member(self) -> Member:
        return Member(
            pod=self.name,
            uid=self.name,
            incarnation="i0",
            host="127.0.0.1",
            port=self.store.port,
        )


class Fleet:
    """All workers of one run."""

    def __init__(self, folder: Path, document: Mapping[str, Any]) -> None:
        self.folder = folder
        self.document = dict(document)
        self.job = parse_job(self.document)
        self.pods: dict[str, Pod] = {}
        self.membership = Membership(round=0)
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self.pods.values():
            if pod.process.is_alive():
                pod.process.kill()
            pod.process.join()

    def start(
        self, *names: str, kill_at: tuple[int, str] | None = None, by: int = signal.SIGKILL
    ) -> None:
        """Start workers; `kill_at` (round, point) sends them a signal there."""
        from torch.distributed import TCPStore

        for name in names:
            mailbox = self.folder / "pods" / name
            mailbox.mkdir(parents=True)
            process = spawn(work, self.document, name, str(mailbox), str(self.folder), kill_at, by)
            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            self.pods[name] = Pod(name=name, mailbox=mailbox, process=process, store=store)
        self.wait_phase(names, PodPhase.WARM)

    def publish(
        self,
        members: Iterable[str],
        *,
        leaving: Iterable[str] = (),
        lost: Iterable[str] = (),
        intent: Intent = Intent.RUN,
        to: Iterable[str] | None = None,
        skip: int = 0,
    ) -> Membership:
        """Write the next membership into all mailboxes (or those of `to`)."""
        for name in members:
            self._fresh_store(name)
            break
        self.membership = Membership(
            round=self.membership.round + 1 + skip,
            intent=intent,
            members=tuple(self.pods[name].member for name in members),
            leaving=tuple(self.pods[name].member for name in leaving),
            lost=tuple(self.pods[name].member for name in lost),
        )
        for name in self.pods if to is None else to:
            put(self.pods[name].mailbox / "membership.json", self.membership)
        return self.membership

    def notice(self, name: str, *, seconds: float) -> None:
        """Tell a pod that it must end within this time."""
        put(self.pods[name].mailbox / "notice.json", Notice(deadline=time.monotonic() + seconds))

    def wait(self, condition: Callable[[], bool], what: str, timeout: float = TIMEOUT_SECONDS):
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                seen = {name: pod.status for name, pod in self.pods.items()}
                raise AssertionError(f"not within {timeout} s: {what}; {seen}")
            time.sleep(0.01)

    def wait_phase(self, names: Iterable[str], phase: PodPhase) -> None:
        names = list(names)

        def reached() -> bool:
            for name in names:
                self._check_alive(name)
            return all((s := self.pods[n].status) is not None and s.phase is phase for n in names)

        self.wait(reached, f"{names} are {phase}")

    def wait_round(self, number: int, names: Iterable[str]) -> None:
        names = list(names)

        def reached() -> bool:
            for name in names:
                self._check_alive(name)
            return all(
                (s := self.pods[n].status) is not None
                and s.round == number
                and s.phase in (PodPhase.TRAINING, PodPhase.FINISHED)
                for n in names
            )

        self.wait(reached, f"{names} train in round {number}")

    def wait_steps(self, steps: int) -> None:
        """Wait until the record holds this step."""
        self.wait(lambda: any(row.get("step", 0) >= steps for row in self.rows()), f"step {steps}")

    def wait_end(self, *names: str, code: int = 0) -> None:
        for name in names:
            self.pods[name].process.join(TIMEOUT_SECONDS)
            assert self.pods[name].process.exitcode == code, (name, self.pods[name].status)

    def kill(self, name: str) -> None:
        pid = self.pods[name].process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        self.pods[name].process.join()

    def rows(self) -> list[dict[str, Any]]:
        path = self.folder / "steps.jsonl"
        if not path.exists():
            return []
        lines = path.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def steps(self) -> list[dict[str, Any]]:
        """Rows of steps that count."""
        return [row for row in self.rows() if "loss" in row and not row.get("discarded")]

    def decisions(self) -> list[dict[str, Any]]:
        return [row for row in self.rows() if "decision" in row and not row.get("discarded")]

    def samples_of_steps(self) -> list[tuple[int, int]]:
        """(first sample, samples) of each step, in order."""
        return [
            (row["samples"] - row["global_batch_size"], row["global_batch_size"])
            for row in self.steps()
        ]

    def _check_alive(self, name: str) -> None:
        process = self.pods[name].process
        if process.exitcode not in (None, 0):
            raise AssertionError(f"{name} ended with {process.exitcode}: {self.pods[name].status}")

    def _fresh_store(self, name: str) -> None:
        from torch.distributed import TCPStore

        self.pods[name].old_store = self.pods[name].store  # type: ignore[attr-defined]
        self.pods[name].store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def work(
    document: Mapping[str, Any],
    name: str,
    mailbox: str,
    run_dir: str,
    kill_at: tuple[int, str] | None,
    by: int,
) -> None:
    """Body of a worker process."""
    import logging

    import torch

    from concertina_trainer import worker
    from concertina_trainer.loading import load_task
    from concertina_trainer.loop.context import WorkerContext
    from concertina_trainer.loop.ending import Ending
    from concertina_trainer.loop.status import StatusBoard

    log = os.open(Path(mailbox, "worker.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level="INFO", force=True)
    context = WorkerContext(
        pod=name,
        uid=name,
        incarnation="i0",
        local_rank=0,
        mailbox=Path(mailbox),
        run_dir=Path(run_dir),
        device=torch.device("cpu"),
    )
    job = parse_job(document)
    board = StatusBoard(context)
    counts: dict[str, int] = {}

    def reached(point: str) -> None:
        counts[point] = counts.get(point, 0) + 1
        if kill_at == (counts[point], point):
            os.kill(os.getpid(), by)

    try:
        task = load_task(job.spec)
        with worker.open_session(job, task, context, board=board, reached=reached) as training:
            for step in training:
                with step:
                    for batch in step.micro_batches():
                        step.backward(task.loss(step.model, batch))
        code = worker.excluded(board) if training.ending is Ending.EXCLUDED else 0
    except Exception as error:  # noqa: BLE001
        code = worker.failed(board, error, context=context)
    os._exit(code)
