"""The contract between operator and trainer: data and batch arithmetic.

Pure: no I/O, no clock, nothing heavier than pydantic. Both sides import these models and
neither parses dictionaries, so what one writes the other reads.
"""
