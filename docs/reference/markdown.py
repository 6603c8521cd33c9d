"""Markdown as the generated pages need it: a page with its origin, a table, code in a cell. Pure."""

from collections.abc import Iterable, Sequence

_ORIGIN = "<!-- Written by `python -m docs.reference` from the code; do not edit. -->"


def page(title: str, *parts: str) -> str:
    """A page of these parts, with an empty line between any two."""
    return "\n\n".join((_ORIGIN, f"# {title}", *(part for part in parts if part))) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are written as they are, so that they may hold links and code."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def code(text: str) -> str:
    """Text to be read letter by letter."""
    return f"`{text}`" if text else ""


def codes(texts: Iterable[str]) -> str:
    """Several of them."""
    return ", ".join(code(text) for text in texts)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
