"""A user's script that drives the loop itself: `train.py <folder with job.yaml>`."""

import sys

from concertina_trainer import session
from tests.e2e.tasks import UntilTold


def main(folder: str) -> None:
    task = UntilTold(folder=folder, step_seconds=0.02)
    with session(f"{folder}/job.yaml", task) as training:
        for step in training:
            with step:
                for batch in step.micro_batches():
                    step.backward(task.loss(step.model, batch))


if __name__ == "__main__":
    main(sys.argv[1])
