"""The training state as rows per worker, and how rows move between worlds."""
