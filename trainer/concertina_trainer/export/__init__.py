"""Weights out of a checkpoint, and weights into a new run."""
