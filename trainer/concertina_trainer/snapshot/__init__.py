"""Copies of the state in the memory of a neighbour's pod."""
