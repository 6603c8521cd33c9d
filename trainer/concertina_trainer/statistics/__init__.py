"""Measures gradient variance at no noticeable cost."""
