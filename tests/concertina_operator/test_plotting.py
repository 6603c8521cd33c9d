"""The picture of a run."""

import sys
from pathlib import Path

import pytest

from concertina_api.errors import InvalidJob, MissingPackage
from concertina_operator.local.record import Row
from concertina_operator.plotting import draw, plot_run
from tests.concertina_operator.local.rows import a_step, an_evaluation, write_rows

PNG = b"\x89PNG\r\n\x1a\n"


def a_record() -> list[Row]:
    return [
        a_step(1, loss=3.0),
        an_evaluation(1, validation=2.9, other=None),
        a_step(2, loss=None),
        a_step(3, loss=90.0, discarded=True),
        a_step(3, loss=2.5, samples=32, global_batch_size=16, world_size=2, pause_seconds=0.25),
        a_step(4, loss=2.4, samples=36, global_batch_size=4, world_size=2),
    ]


def test_draws_into_the_run_directory(tmp_path: Path) -> None:
    write_rows(tmp_path / "steps.jsonl", *a_record())
    assert plot_run(tmp_path) == tmp_path / "plot.png"
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)


def test_draws_into_the_named_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "steps.jsonl", *a_record())
    assert plot_run(tmp_path, output=tmp_path / "x.png") == tmp_path / "x.png"
    assert not (tmp_path / "plot.png").exists()


def test_discarded_steps_are_left_out(tmp_path: Path) -> None:
    """The picture is the same as of a record that never held them."""
    draw(a_record(), title="t", output=tmp_path / "with.png")
    kept = [row for row in a_record() if not row.discarded]
    draw(kept, title="t", output=tmp_path / "without.png")
    assert (tmp_path / "with.png").read_bytes() == (tmp_path / "without.png").read_bytes()


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([a_step(1)], id="one-step"),
        pytest.param([a_step(1, loss=None)], id="no-finite-loss"),
        pytest.param([a_step(n, world_size=1 + n % 2) for n in range(1, 40)], id="many-resizes"),
    ],
)
def test_draws_what_is_unusual(rows: list[Row], tmp_path: Path) -> None:
    draw(rows, title="t", output=tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)


def test_says_that_there_is_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="is no directory of a run"):
        plot_run(tmp_path / "nowhere")
    with pytest.raises(InvalidJob, match="holds no step"):
        plot_run(tmp_path)


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "steps.jsonl", *a_record())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackage, match=r"concertina-training\[local\]"):
        plot_run(tmp_path)
