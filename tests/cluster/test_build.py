"""The cache of binaries: what is built, what is not, and what is said."""

import shutil
import subprocess

import pytest

from tests.cluster import build as builder
from tests.cluster.build import BuildFailure, binaries, build, main, missing
from tests.cluster.tools import FAMILIES, Tool

needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not in PATH")
PAUSE = Tool(name="pause", module="tools", package="./pause")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; what Go itself keeps stays where it is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def go_cache(monkeypatch):
    """Go's own cache follows XDG_CACHE_HOME too: keep it, or everything is compiled again."""
    for name in ("GOCACHE", "GOMODCACHE"):
        found = subprocess.run(["go", "env", name], capture_output=True, text=True, check=True)
        monkeypatch.setenv(name, found.stdout.strip())


@needs_go
def test_builds_what_is_missing_once(go_cache, cache, monkeypatch, capsys):
    monkeypatch.setattr(builder, "STAGE_FILES", ())
    assert missing([PAUSE]) == (PAUSE,)
    folder = build([PAUSE])
    made = (folder / "pause").stat().st_mtime_ns
    assert missing([PAUSE]) == ()
    assert build([PAUSE]) == folder
    assert (folder / "pause").stat().st_mtime_ns == made
    assert capsys.readouterr().out.count("building pause") == 1


@needs_go
def test_a_build_that_fails_leaves_nothing_behind(go_cache, cache):
    broken = Tool(name="broken", module="tools", package="./nothing")
    with pytest.raises(BuildFailure, match=r"go build .*\./nothing` ended with 1"):
        build([broken])
    assert sorted(path.name for path in binaries().iterdir()) == [".lock", "kwok-stages.yaml"]


def test_says_that_go_is_missing_and_what_it_is_needed_for(cache, monkeypatch):
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(BuildFailure, match="Go is not in PATH, and pause must be built with it"):
        build([PAUSE])


@pytest.mark.parametrize(
    ("required", "want_code"),
    [pytest.param("", 0, id="wished"), pytest.param("1", 1, id="required")],
)
def test_fails_only_where_a_cluster_is_required(cache, monkeypatch, required, want_code):
    monkeypatch.setenv("PATH", str(cache))
    monkeypatch.setenv("CONCERTINA_REQUIRE_CLUSTER", required)
    assert main(["--control-plane"]) == want_code


@pytest.mark.parametrize("changed", FAMILIES, ids=lambda family: family.modules[-1])
def test_another_go_sum_is_another_folder_of_its_family_alone(
    cache, tmp_path, monkeypatch, changed
):
    before = [binaries(family) for family in FAMILIES]
    sources = shutil.copytree(builder.GO, tmp_path / "go")
    monkeypatch.setattr(builder, "GO", sources)
    assert [binaries(family) for family in FAMILIES] == before
    with (sources / changed.modules[-1] / "go.sum").open("a") as sums:
        sums.write("\n")
    moved = [f for f, folder in zip(FAMILIES, before, strict=True) if binaries(f) != folder]
    assert moved == [changed]
