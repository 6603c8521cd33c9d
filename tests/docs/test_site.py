"""The site builds without a warning, loads nothing from a network, and names files that exist."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from concertina_api.v1alpha1 import ConditionType
from concertina_operator.cluster.metrics import METRICS as OPERATOR
from concertina_trainer.agent.metrics import METRICS as TRAINER
from tests.docs.pages import FOLDER, PAGES, ROOT, blocks, prose

TEXTS = [*PAGES, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]
TOP = ("README.md", "SECURITY.md", "CHANGELOG.md", "Dockerfile", "Makefile", "uv.lock")
OPERATOR_CODE = "".join(
    path.read_text() for path in sorted((ROOT / "operator/concertina_operator").rglob("*.py"))
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "mkdocs", "build", "--strict",
         "--config-file", str(ROOT / "docs/mkdocs.yml"), "--site-dir", str(folder)],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


class Loads(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"link": "href", "script": "src", "img": "src", "iframe": "src"}
        value = dict(attrs).get(names.get(tag, ""))
        self.found += [value] if value else []


def named(pattern: str, text: str) -> set[str]:
    return set(re.findall(pattern, text))


def test_links_and_anchors_of_the_site_are_whole(site):
    built = {path.relative_to(site).as_posix() for path in site.rglob("index.html")}

    assert len(built) >= len(PAGES)


def test_the_site_loads_nothing_from_a_network(site):
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text())
        assert loads.found
        assert not [url for url in loads.found if re.match(r"(https?:)?//", url)], page


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_external_links_are_well_formed(path):
    for url in named(r"\]\((\w+:[^)]*)\)", prose(path)):
        assert re.fullmatch(r"https://[\w.-]+\.\w+(/[^\s]*)?", url), url


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(path):
    tops = "|".join(entry.name for entry in ROOT.iterdir() if not entry.name.startswith("."))
    for name in named(rf"`((?:{tops})(?:/[\w./*-]+)?)`", prose(path)):
        if "/" in name or name in TOP:
            assert list(ROOT.glob(name)), name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_metrics_that_are_named_are_exported(path):
    exported = {metric.name for metric in (*OPERATOR, *TRAINER)}

    assert named(r"`(concertina_(?!trainer|operator\b|api\b)\w+)", path.read_text()) <= exported


def test_alerts_that_are_named_exist_and_have_a_runbook():
    rules = (ROOT / "charts/concertina/files/alerts.yaml").read_text()
    alerts = named(r"alert: (\w+)", rules)

    for path in PAGES:
        assert named(r"\bConcertina[A-Z][a-z]+[A-Z]\w+", path.read_text()) <= alerts, path
    assert {path.stem for path in (FOLDER / "runbooks").glob("Concertina*.md")} == alerts


def test_every_condition_is_explained_and_no_other():
    rows = re.findall(r"^\| `(\w+)` \| .* \| `", section("Conditions"), re.MULTILINE)

    assert rows == [condition.value for condition in ConditionType]


def test_every_state_is_explained():
    rows = re.findall(r"^\| (`.*?) \|", section("States"), re.MULTILINE)
    want = named(r'state(?:=|": )"([A-Z]\w+)"', OPERATOR_CODE) | named(
        r'return "([A-Z]\w+)"', (ROOT / "operator/concertina_operator/account.py").read_text()
    )

    assert named(r"`(\w+)`", " ".join(rows)) >= want


def test_every_event_is_named():
    want = named(r'(?:_warning|_normal)\(\s*"(\w+)"', OPERATOR_CODE)
    want |= named(r'Event\(\s*type=[\w.]+,\s*reason="(\w+)"', OPERATOR_CODE)

    assert want
    assert want <= named(r"`(\w+)`", section("Events"))


def section(title):
    page = (FOLDER / "operate/status.md").read_text()
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_is_included_is_a_file(path):
    included = re.findall(r'^--8<-- "(.+)"$', path.read_text(), re.MULTILINE)

    assert len(included) == len(re.findall("--8", path.read_text()))
    assert all((ROOT / name).is_file() for name in included)


def test_code_is_in_blocks_of_known_languages():
    known = {"", "console", "dockerfile", "python", "sh", "text", "yaml", "promql"}
    found = {block.language for language in known for block in blocks(language)}
    fences = sum(path.read_text().count("```") for path in PAGES)

    assert found <= known
    assert fences == 2 * sum(len(blocks(language)) for language in known)
