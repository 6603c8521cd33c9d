"""The pages of the documentation and the blocks of code in them, for the tests of this folder."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/pages"
PAGES = sorted(FOLDER.rglob("*.md"))
# Python that is included has its language in braces: ruff takes it for code and formats it otherwise.
_FENCE = re.compile(
    r'^(?P<indent> *)``` ?(?:\{\.)?(?P<language>\w+)?\}?(?: title="(?P<title>[^"]+)")?\n'
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_INCLUDED = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    language: str
    title: str
    text: str
    """With the files that it includes."""

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(language: str, *, page: str = "") -> list[Block]:
    """All blocks of a language, or those of one page."""
    found = [block for path in PAGES for block in _blocks(path)]
    return [block for block in found if block.language == language and page in ("", block.page)]


def prose(path: Path) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", path.read_text())


def _blocks(path: Path) -> Iterator[Block]:
    page = path.read_text()
    for match in _FENCE.finditer(page):
        yield Block(
            page=str(path.relative_to(FOLDER)),
            line=page.count("\n", 0, match.start()) + 1,
            language=match["language"] or "",
            title=match["title"] or "",
            text=_INCLUDED.sub(_content, textwrap.dedent(match["text"])),
        )


def _content(match: re.Match[str]) -> str:
    return (ROOT / match[1]).read_text()
