"""Samples: their order, how they are loaded ahead, file formats."""
