"""Writes every generated page into docs/pages."""

from pathlib import Path

from docs.reference.pages import PAGES

_FOLDER = Path(__file__).parents[1] / "pages"

for name, text in PAGES.items():
    (_FOLDER / name).write_text(text(), encoding="utf-8")
