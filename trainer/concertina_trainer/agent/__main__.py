"""`python -m concertina_trainer.agent [script.py arguments...]`."""

import os
import signal
import sys

if __name__ == "__main__":
    # The first process of a container ignores an order to end that it has no handler for, and
    # nobody repeats it. Until the agent listens itself there is nothing to hand over.
    for order in (signal.SIGTERM, signal.SIGINT):
        signal.signal(order, lambda *_: os._exit(0))

    from concertina_trainer.agent.main import main

    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # TextIO in stubs
    sys.exit(main(sys.argv[1:], os.environ))
