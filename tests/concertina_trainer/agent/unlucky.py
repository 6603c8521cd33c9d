"""An agent whose workers die right after it has looked at them, before torch's agent looks."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.concertina_trainer.agent.pods import has_ended, send_output_to, wait_for

MOST_STARTS = 8
"""An agent that goes on for ever is stopped here."""


def run_unlucky_agent(environment: Mapping[str, str], starts: Path, log: str) -> None:
    """Body of an agent's process; adds a character to `starts` whenever workers start."""
    from concertina_trainer.agent.agent import bind_store, live_agent
    from concertina_trainer.agent.leave import Leave
    from concertina_trainer.agent.membership import MembershipFile
    from concertina_trainer.agent.metrics import Tally
    from concertina_trainer.agent.pod import Pod
    from concertina_trainer.agent.publisher import Publisher, ReportFile
    from concertina_trainer.agent.settings import settings_from
    from concertina_trainer.agent.stores import RoundStores

    class UnluckyPod(Pod):
        def begin(self) -> None:
            super().begin()
            with starts.open("a") as file:
                file.write("s")
            if starts.stat().st_size > MOST_STARTS:
                sys.exit(99)

        def must_end(self, *, now: float) -> bool:
            for worker in agent.get_worker_group().workers:
                os.kill(worker.id, signal.SIGKILL)
                wait_for(lambda pid=worker.id: has_ended(pid), lambda: "the worker goes on")
            return super().must_end(now=now)

    send_output_to(log)
    settings = settings_from(environment)
    pod = UnluckyPod(
        settings,
        source=MembershipFile(settings.channel.membership),
        stores=RoundStores(bind_store),
        publisher=Publisher(ReportFile(settings.channel.report)),
        tally=Tally(),
        leave=Leave(settings.grace_seconds),
    )
    agent = live_agent(settings, pod, ("-c", "import time; time.sleep(600)"))
    result = agent.run()
    pod.close(now=0)
    sys.exit(int(result.is_failed()))
