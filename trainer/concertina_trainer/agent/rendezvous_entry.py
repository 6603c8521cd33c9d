"""Entry point of `torchrun --rdzv-backend=concertina`.

torch loads it while it imports itself, hence nothing of torch may be imported here.
"""

from collections.abc import Callable
from typing import Any


def entry() -> Callable[[Any], Any]:
    """A creator of rendezvous handlers, as torch's registry wants it."""

    def create(parameters: Any) -> Any:
        from concertina_trainer.agent.rendezvous import create_handler

        return create_handler(parameters)

    return create
