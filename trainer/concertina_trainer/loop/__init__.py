"""The training loop: session, step, evaluation, record."""
