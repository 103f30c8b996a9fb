"""Plots and tables of records: what diverged neither hides nor outranks the others."""

from dataclasses import replace
from pathlib import Path

import pytest

from modula.training.records import Record
from modula.training.report import comparison_rows, draw_curves, loss_limits


def test_curves_are_drawn(tmp_path: Path) -> None:
    moved = {"blocks.0.up.weight": 0.1, "head.weight": 0.2}
    records = [Record(i, 5.0 / i, 0.1, float(i), 1.0, 5.0 / i, moved) for i in range(1, 6)]
    draw_curves(records, tmp_path / "curves.png", "tiny")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_explodes_does_not_flatten_the_others() -> None:
    good = [Record(i, 5.0 / i, 0.1, float(i), 1.0, val_loss=5.0 / i) for i in range(1, 6)]
    bad = [replace(record, loss=5.0 * 10.0 ** (i**2)) for i, record in enumerate(good)]
    assert loss_limits({"good": good, "bad": bad}) == pytest.approx((0.9, 5.25))


def test_a_run_that_stopped_early_comes_last_in_the_table() -> None:
    records = [Record(i, 5.0 / i, 0.1, float(i), 7.0, val_loss=5.0 / i) for i in range(1, 6)]
    better, stopped = [replace(r, val_loss=r.loss / 2) for r in records], records[:3]
    rows = comparison_rows({"stopped": stopped, "good": records, "better": better})
    assert [row[:2] for row in rows] == [
        ["better", "0.5000"], ["good", "1.0000"], ["stopped", "diverged"]
    ]  # fmt: skip
    assert rows[0][-1] == "7"
