"""`python -m concertina_trainer.agent [script.py arguments...]`."""

import os
import sys

from concertina_trainer.agent.main import main

if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # TextIO in stubs
    sys.exit(main(sys.argv[1:], os.environ))
