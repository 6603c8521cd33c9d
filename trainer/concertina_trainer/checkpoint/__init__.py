"""Durable state from which any world size can start."""
