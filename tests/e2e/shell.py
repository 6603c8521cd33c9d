"""`concertina run` with a grace period, and perhaps agents, of its own.

shell.py <manifest> <run folder> <seconds> [command of an agent...]
"""

import sys
from pathlib import Path

from concertina_operator.local.directory import open_directory
from concertina_operator.local.display import display_for
from concertina_operator.local.interrupts import Interrupts
from concertina_operator.local.pods import AGENT_COMMAND
from concertina_operator.local.shell import Settings, run_job
from concertina_operator.manifest_file import load_job


def main(manifest: str, folder: str, grace_seconds: str, *agent_command: str) -> int:
    job = load_job(Path(manifest))
    with Interrupts() as interrupts, open_directory(Path(folder), job=job) as directory:
        outcome = run_job(
            job,
            directory=directory,
            display=display_for(sys.stdout),
            interrupts=interrupts,
            settings=Settings(
                agent_command=agent_command or AGENT_COMMAND, grace_seconds=int(grace_seconds)
            ),
        )
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
