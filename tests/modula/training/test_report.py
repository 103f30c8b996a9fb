"""Plots and tables of records: what diverged neither hides nor outranks the others."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from modula.training import report
from modula.training.records import Record
from modula.training.report import (
    COLUMNS,
    comparison_markdown,
    comparison_rows,
    comparison_table,
    draw_comparison,
    draw_curves,
    loss_limits,
)


def test_curves_are_drawn(tmp_path: Path) -> None:
    moved = {"blocks.0.up.weight": 0.1, "head.weight": 0.2}
    records = [Record(i, 5.0 / i, 0.1, float(i), 1.0, 5.0 / i, moved) for i in range(1, 6)]
    draw_curves(records, tmp_path / "curves.png", "tiny")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_explodes_does_not_flatten_the_others() -> None:
    good = [Record(i, 5.0 / i, 0.1, float(i), 1.0, val_loss=5.0 / i) for i in range(1, 6)]
    bad = [replace(record, loss=5.0 * 10.0 ** (i**2)) for i, record in enumerate(good)]
    assert loss_limits({"good": good, "bad": bad}) == pytest.approx((0.9, 5.25))


def made(steps: int) -> list[Record]:
    return [Record(i, 5.0 / i, 0.1, float(i), 7.0, val_loss=5.0 / i) for i in range(1, steps + 1)]


def test_a_run_that_diverged_comes_last_in_the_table_and_says_where() -> None:
    better = [replace(r, val_loss=r.loss / 2) for r in made(5)]
    runs = {"stopped": made(3), "good": made(5), "at once": [], "better": better}
    rows = comparison_rows(runs, 5)
    assert [row[:2] for row in rows] == [
        ["better", "0.5000"], ["good", "1.0000"],
        ["stopped", "diverged at step 4"], ["at once", "diverged at step 1"],
    ]  # fmt: skip
    assert rows[0][-1] == "7"
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert comparison_rows({"all": made(3)}, 5)[0][1] == "diverged at step 4"
    assert "| diverged at step 4 |" in comparison_markdown(runs, 5)


@pytest.mark.parametrize("loss", [3.81052484774701e20, 1e30, 12345.6])
def test_no_number_of_a_table_is_longer_than_it_can_be_read(loss: float) -> None:
    exploded = [replace(r, loss=loss, val_loss=loss) for r in made(5)]
    row = comparison_rows({"it": exploded}, 5)[0]
    assert float(row[1]) == float(row[2]) == pytest.approx(loss, rel=1e-2)
    assert max(map(len, row)) < 10


def test_a_table_is_cut_nowhere_and_shows_text_as_it_is() -> None:
    name = "muon@0.02@[/x]@a-long-option=bfloat16"
    console = Console(width=60, record=True, color_system=None, file=io.StringIO())
    console.print(comparison_table({name: made(3)}, 5))
    text = console.export_text()
    assert "…" not in text
    first = "".join(line.split("│")[1].strip() for line in text.splitlines() if "│" in line)
    assert first == name


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that would be saved."""
    figures = list[Figure]()
    monkeypatch.setattr(report, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def test_a_contender_that_diverges_is_in_the_legend_and_leaves_the_axis_alone(
    drawn: list[Figure],
) -> None:
    bad = [replace(r, loss=5.0 * 10.0 ** (4 * i), val_loss=None) for i, r in enumerate(made(6))]
    draw_comparison({"bad": bad, "good": made(20), "none": []}, 20, Path(), "t")
    by_step, by_second = drawn[0].axes
    legend = by_step.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "bad (diverged at step 7)", "good", "none (diverged at step 1)"
    ]  # fmt: skip
    for axes in (by_step, by_second):
        assert axes.get_ylim() == pytest.approx((0.225, 5.25))


@pytest.mark.parametrize("steps", [1, 2, 9, 19])
def test_a_short_run_shows_every_point(drawn: list[Figure], steps: int) -> None:
    moved = {"head.weight": 0.2}
    records = [
        replace(r, update_norms=moved if r.step in (10, steps) else None) for r in made(steps)
    ]
    draw_curves(records, Path(), "short")
    lines = [line for axes in drawn[0].axes for line in axes.lines]
    assert len(lines) == 8
    assert all(line.get_marker() == "o" for line in lines)


@pytest.mark.parametrize(
    ("norms", "said"), [(None, "not measured yet"), ({"head.weight": 0.0}, "no weight moved")]
)
def test_a_panel_without_a_line_says_why(
    drawn: list[Figure], norms: dict[str, float] | None, said: str
) -> None:
    draw_curves([replace(r, update_norms=norms) for r in made(5)], Path(), "still")
    assert said in drawn[0].axes[3].texts[0].get_text()


def test_one_run_that_explodes_is_cut_at_twice_its_first_loss(drawn: list[Figure]) -> None:
    bad = [replace(r, loss=5.0 * 10.0 ** (4 * i)) for i, r in enumerate(made(6))]
    draw_curves(bad, Path(), "bad")
    axes = drawn[0].axes[0]
    assert axes.get_ylim()[1] == 10.0
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_texts()[-1].get_text() == "cut; it went up to 5e+20"
