"""Training tasks that run without a download."""
