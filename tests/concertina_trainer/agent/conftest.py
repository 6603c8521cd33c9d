from contextlib import ExitStack

import pytest

from tests.concertina_trainer.agent.pods import Run


@pytest.fixture
def run(tmp_path):
    with ExitStack() as stack:
        yield Run(tmp_path, stack)


@pytest.fixture
def run_of_two(tmp_path):
    """A run whose pods have two workers each."""
    with ExitStack() as stack:
        yield Run(tmp_path, stack, workers=2)
