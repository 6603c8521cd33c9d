"""Builds the agent of a pod from its environment and runs it to its end.

    python -m concertina_trainer.agent [script.py arguments...]

Exit codes: 0 when the workers left, finished or saved; 1 when they failed for good or had to be
killed; 2 when the environment or the manifest is wrong.
"""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from concertina_api.errors import ConcertinaError
from concertina_api.v1alpha1 import Failure, FailureCause, PodPhase, Report
from concertina_trainer.agent.leave import Leave
from concertina_trainer.agent.membership import MembershipFile
from concertina_trainer.agent.metrics import PodCollector, Tally, serve_metrics
from concertina_trainer.agent.pod import Pod
from concertina_trainer.agent.report import Publisher, ReportFile
from concertina_trainer.agent.settings import Settings, settings_from
from concertina_trainer.agent.stores import RoundStores

logger = logging.getLogger(__name__)


def main(program: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the agent; `program` are the arguments of the workers' Python. Returns the exit code."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s agent: %(message)s"
    )
    try:
        settings = settings_from(environment)
        leave = Leave(settings.grace_seconds)
        leave.listen()
        tally = Tally()
        if settings.metrics_port:
            metadata = settings.job.metadata
            collector = PodCollector(tally, namespace=metadata.namespace, job=metadata.name)
            serve_metrics(collector, port=settings.metrics_port)
    except ConcertinaError as error:
        logger.error("%s", error)
        _report_mistake(error, environment)
        return error.exit_code
    return _run(settings, program, leave=leave, tally=tally)


def _report_mistake(error: ConcertinaError, environment: Mapping[str, str]) -> None:
    """Tells the operator why no worker starts, as far as the environment says how."""
    try:
        report = Report(
            pod=environment["CONCERTINA_POD"],
            uid=environment["CONCERTINA_UID"],
            incarnation="none",
            phase=PodPhase.FAILED,
            failure=Failure(
                round=0,
                incarnation="none",
                cause=FailureCause.INVALID_JOB,
                message=str(error)[:512],
                permanent=True,
            ),
        )
        ReportFile(Path(environment["CONCERTINA_REPORT"])).send(report)
    except (KeyError, ValidationError, OSError) as trouble:
        logger.warning("the mistake is not in a report: %s", trouble)


def _run(settings: Settings, program: Sequence[str], *, leave: Leave, tally: Tally) -> int:
    # Imported after the checks: torch takes seconds, mistakes are told at once.
    from torch.distributed.elastic.multiprocessing import SignalException

    from concertina_trainer.agent.agent import bind_store, live_agent

    pod = Pod(
        settings,
        source=MembershipFile(settings.membership),
        stores=RoundStores(bind_store),
        publisher=Publisher(ReportFile(settings.report)),
        tally=tally,
        leave=leave,
    )
    if leave.deadline is not None:
        logger.info("told to end before the workers started")
        return 0
    agent = live_agent(settings, pod, program)
    try:
        result = agent.run()
    except SignalException as error:
        return 128 + error.sigval
    finally:
        pod.close(now=time.monotonic())
    code = int(result.is_failed())
    logger.info("the workers have ended: exit code %d", code)
    return code
