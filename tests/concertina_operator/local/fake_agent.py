"""An agent without torch: speaks the file protocol, "trains" by counting samples.

Run as a program by the tests of the shell. FAKE_BEHAVIOUR chooses what goes wrong.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from concertina_api.batch import num_micro_batches
from concertina_api.v1alpha1 import (
    BatchSizeRequest,
    Failure,
    FailureCause,
    Intent,
    Membership,
    PodPhase,
    Progress,
    Report,
    Resize,
    SavedCheckpoint,
    TrainingMembership,
    TrainingReport,
)
from concertina_operator.local.files import replace_text
from concertina_operator.manifest_file import load_job

POD = os.environ["CONCERTINA_POD"]
UID = os.environ["CONCERTINA_UID"]
RUN_DIR = Path(os.environ["CONCERTINA_RUN_DIR"])
BEHAVIOUR = os.environ.get("FAKE_BEHAVIOUR", "")
SPEC = load_job(Path(os.environ["CONCERTINA_JOB"])).spec
STATE = RUN_DIR / "checkpoints" / "state.json"
STEP_SECONDS = float(os.environ.get("FAKE_STEP_SECONDS", "0.01"))


class Agent:
    def __init__(self) -> None:
        self.report = Report(
            pod=POD, uid=UID, incarnation="i1", phase=PodPhase.STARTING, port=40000
        )
        self.told_to_end = False
        self.samples, self.step, self.sequence = 0, 0, 0
        self.batch = SPEC.batch.initial
        self.world_size = 0

    def tell(self, **fields: object) -> None:
        report = self.report.model_copy(update=fields)
        if report == self.report and fields:
            return
        self.report = report
        path = Path(os.environ["CONCERTINA_REPORT"])
        document = TrainingReport(spec=report)
        replace_text(path, document.model_dump_json(by_alias=True, exclude_none=True))

    def membership(self) -> Membership | None:
        try:
            content = Path(os.environ["CONCERTINA_MEMBERSHIP"]).read_bytes()
        except FileNotFoundError:
            return None
        return TrainingMembership.model_validate_json(content).spec

    def run(self) -> int:
        self.tell()
        self.tell(phase=PodPhase.WARM)
        while True:
            membership = self.membership()
            if self.told_to_end:
                self.tell(leaving=True)
            if membership is not None and membership.round > self.report.round:
                member = [m for m in membership.members if m.uid == UID]
                if member:
                    self.enter(membership)
                elif self.report.round or membership.intent is not Intent.RUN:
                    return self.leave(membership)
            elif self.told_to_end and self.report.round == 0:
                return 0
            if self.report.round and membership and membership.members[:1]:
                if membership.members[0].uid == UID and self.lead(membership):
                    return 0
                if self.read_state()["samples"] >= SPEC.samples:
                    self.tell(phase=PodPhase.FINISHED, finished=True)
                    return 0
            time.sleep(STEP_SECONDS)

    def read_state(self) -> dict[str, int]:
        if not STATE.exists():
            return {"samples": 0, "step": 0, "batch": SPEC.batch.initial, "sequence": 0}
        return json.loads(STATE.read_text())

    def enter(self, membership: Membership) -> None:
        state = self.read_state()
        before, self.world_size = self.world_size, membership.world_size
        self.samples, self.step = state["samples"], state["step"]
        self.batch, self.sequence = state["batch"], state["sequence"]
        fields: dict[str, object] = {"phase": PodPhase.TRAINING, "round": membership.round}
        if membership.members[0].uid == UID:
            fields["acknowledged"] = Resize(
                round=membership.round,
                world_size_before=before,
                world_size=membership.world_size,
                step=self.step,
                pause_seconds=0.25,
                phases={"agree": 0.05, "exchange": 0.2},
            )
        self.tell(**fields)

    def lead(self, membership: Membership) -> bool:
        """One step; whether the run is over."""
        if BEHAVIOUR == "fail" and self.step >= 2:
            self.fail(FailureCause.EXCEPTION, "boom \x1b[31m at step 2")
        if BEHAVIOUR == "invalid":
            self.fail(FailureCause.INVALID_JOB, "config.width: no such thing")
        self.step += 1
        self.samples += self.batch
        micro_batches = num_micro_batches(self.batch, SPEC.batch.micro_batch_size)
        self.record(
            loss=5 / (1 + self.samples / 100),
            global_batch_size=self.batch,
            num_micro_batches=micro_batches,
            world_size=membership.world_size,
            round=membership.round,
            pause_seconds=0.0,
        )
        self.tell(
            progress=Progress(
                step=self.step,
                samples=self.samples,
                world_size=membership.world_size,
                round=membership.round,
                loss=1.0,
            )
        )
        if self.step >= 5 and self.batch < SPEC.batch.max:
            self.grow()
        STATE.parent.mkdir(exist_ok=True)
        state = {"samples": self.samples, "step": self.step}
        state |= {"batch": self.batch, "sequence": self.sequence}
        replace_text(STATE, json.dumps(state))
        if self.samples < SPEC.samples:
            return False
        self.record(evaluation={"validation": 1.5})
        self.tell(phase=PodPhase.FINISHED, finished=True)
        return True

    def grow(self) -> None:
        self.batch, self.sequence = SPEC.batch.max, self.sequence + 1
        reason = f"wants {self.batch}"
        self.record(
            decision={
                "requested": self.batch,
                "effective": self.batch,
                "grow": True,
                "reason": reason,
                "noise_scale": 99.0,
                "rule": "NormTest",
            }
        )
        self.tell(
            request=BatchSizeRequest(
                sequence=self.sequence,
                requested=self.batch,
                effective=self.batch,
                reason=reason,
            )
        )

    def leave(self, membership: Membership) -> int:
        saved = SavedCheckpoint(step=self.step, samples=self.samples, path="checkpoints")
        checkpoint = saved if membership.intent is not Intent.RUN else None
        self.tell(phase=PodPhase.LEFT, round=membership.round, checkpoint=checkpoint)
        return 0

    def fail(self, cause: FailureCause, message: str) -> None:
        failure = Failure(
            round=self.report.round,
            incarnation="i1",
            rank=0,
            cause=cause,
            message=message,
            permanent=cause is FailureCause.INVALID_JOB,
        )
        self.tell(phase=PodPhase.FAILED, failure=failure)
        sys.exit(1)

    def record(self, **fields: object) -> None:
        row = {"step": self.step, "samples": self.samples, "time": time.time()} | fields
        with (RUN_DIR / "steps.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def main() -> int:
    print(f"agent of {POD} starts", flush=True)
    if BEHAVIOUR == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # As torch's elastic agent does: the worker has a session of its own.
        worker = subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
        (RUN_DIR / f"{POD}.worker").write_text(str(worker.pid))
        time.sleep(600)
    agent = Agent()

    def end(number: int, frame: object) -> None:
        agent.told_to_end = True

    signal.signal(signal.SIGTERM, end)
    return agent.run()


SLEEP = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"

if __name__ == "__main__":
    sys.exit(main())
