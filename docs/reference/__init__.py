"""Pages that are written from the code they describe: `python -m docs.reference` writes them all.

tests/docs compares the pages that are committed with what this package writes.
"""
