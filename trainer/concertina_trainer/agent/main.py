"""Builds the agent of a pod from its environment and runs it to its end.

    python -m concertina_trainer.agent [script.py arguments...]

Exit codes: 0 when the workers left, finished, saved, or were not warm when they were told to end;
1 when they failed for good or had to be killed; 2 when the environment or the manifest is wrong.
"""

import logging
import time
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from concertina_api.errors import ConcertinaError, InvalidJob, StorageUnavailable
from concertina_api.v1alpha1 import Failure, FailureCause, PodPhase, Report
from concertina_trainer.agent.api_server import ApiServer
from concertina_trainer.agent.endpoint import serve_endpoint
from concertina_trainer.agent.leave import Leave
from concertina_trainer.agent.membership import MembershipFile, MembershipSource
from concertina_trainer.agent.membership_watch import MembershipWatch
from concertina_trainer.agent.metrics import PodCollector, Tally
from concertina_trainer.agent.pod import Pod
from concertina_trainer.agent.publisher import Publisher, ReportFile, ReportSink
from concertina_trainer.agent.report_object import ReportObject
from concertina_trainer.agent.settings import Channel, Files, Settings, channel_from, settings_from
from concertina_trainer.agent.stores import RoundStores
from concertina_trainer.logs import AGENT_FORMAT, Logs, set_up_logs

logger = logging.getLogger(__name__)

LAST_REPORT_SECONDS = 600.0
"""How long an agent that is done waits for the API server to take its last report."""
MISTAKE_SECONDS = 60.0
"""How long it tries to tell that it never started."""


def main(program: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the agent; `program` are the arguments of the workers' Python. Returns the exit code."""
    logs = set_up_logs(environment, text=AGENT_FORMAT)
    logs.know(pod=environment.get("CONCERTINA_POD"))
    try:
        settings = settings_from(environment)
        logs.know(namespace=settings.job.metadata.namespace, job=settings.job.metadata.name)
        tally = Tally()
        if settings.metrics_port:
            _serve(tally, settings)
    except ConcertinaError as error:
        logger.error("%s", error)
        _report_mistake(error, environment)
        return error.exit_code
    return _run(settings, program, tally=tally, logs=logs)


def _serve(tally: Tally, settings: Settings) -> None:
    metadata = settings.job.metadata
    collector = PodCollector(
        tally, namespace=metadata.namespace, job=metadata.name, pod=settings.pod
    )
    try:
        serve_endpoint(collector, port=settings.metrics_port, is_ready=lambda: tally.is_ready)
    except InvalidJob as error:
        if isinstance(settings.channel, Files):
            raise
        # In a pod it is the operator that chose the port, and any sidecar may have taken it.
        logger.warning("%s; training goes on without it", error)


def _report_mistake(error: ConcertinaError, environment: Mapping[str, str]) -> None:
    """Tells the operator why no worker starts, as far as the environment says how."""
    is_invalid = not isinstance(error, StorageUnavailable)
    try:
        report = Report(
            pod=environment["CONCERTINA_POD"],
            uid=environment["CONCERTINA_UID"],
            incarnation="none",
            phase=PodPhase.FAILED,
            failure=Failure(
                round=0,
                incarnation="none",
                cause=FailureCause.INVALID_JOB if is_invalid else FailureCause.INFRASTRUCTURE,
                message=str(error)[:512],
                permanent=is_invalid,
            ),
        )
        sink = _sink(channel_from(environment))
        sink.send(report)
        if not sink.settled(within_seconds=MISTAKE_SECONDS):
            logger.warning("the mistake is not in a report: the API server did not take it")
    except (KeyError, ValidationError, OSError, InvalidJob) as trouble:
        logger.warning("the mistake is not in a report: %s", trouble)


def _run(settings: Settings, program: Sequence[str], *, tally: Tally, logs: Logs) -> int:
    # Imported after the checks: torch takes seconds, mistakes are told at once.
    from torch.distributed.elastic.multiprocessing import SignalException

    from concertina_trainer.agent.agent import bind_store, live_agent

    logs.adopt("torch")
    leave = Leave(settings.grace_seconds)
    source, sink = _source(settings), _sink(settings.channel)
    pod = Pod(
        settings,
        source=source,
        stores=RoundStores(bind_store),
        publisher=Publisher(sink),
        tally=tally,
        leave=leave,
    )
    logs.know(round=lambda: pod.round)
    agent = live_agent(settings, pod, program, line_prefix=logs.line_prefix)
    leave.listen()  # an order before this has ended the process at once (__main__.py)
    try:
        result = agent.run()
    except SignalException as error:
        return 128 + error.sigval
    finally:
        pod.close(now=time.monotonic())
        if not pod.leaves_nothing:
            _deliver(sink, source=source, leave=leave)
    code = 0 if pod.leaves_nothing else int(result.is_failed())
    logger.info("the workers have ended: exit code %d", code)
    return code


def _source(settings: Settings) -> MembershipSource:
    if isinstance(settings.channel, Files):
        return MembershipFile(settings.channel.membership)
    job = settings.job.metadata
    api, is_due = ApiServer(settings.channel), settings.newest_round > 0
    return MembershipWatch(api, job.name, uid=job.uid, is_due=is_due)


def _sink(channel: Channel) -> ReportSink:
    if isinstance(channel, Files):
        return ReportFile(channel.report)
    return ReportObject(ApiServer(channel))


def _deliver(sink: ReportSink, *, source: MembershipSource, leave: Leave) -> None:
    """Wait until the last report is where the operator finds it, as long as anybody wants it."""
    give_up = time.monotonic() + LAST_REPORT_SECONDS
    while not sink.settled(within_seconds=0.2):
        deadline = give_up if leave.deadline is None else min(give_up, leave.deadline)
        if source.gone() or leave.at_once or time.monotonic() >= deadline:
            logger.warning("the last report was not written")
            return
