"""A metrics file survives its process: half lines are dropped, later lines forgotten."""

import json
import math
from pathlib import Path

import pytest

from modula.errors import UserError
from modula.training.records import MetricsFile, Record, read_records, to_line


def record(step: int) -> Record:
    return Record(step, 1.0 / (step + 1), 0.1, float(step), 1e4, update_norms={"a.weight": 1 / 3})


def written(path: Path, count: int) -> Path:
    with MetricsFile(path) as metrics:
        for step in range(1, count + 1):
            metrics.append(record(step))
    return path


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    path = written(tmp_path / "metrics.jsonl", 3)
    assert read_records(path) == [record(1), record(2), record(3)]
    assert set(json.loads(path.read_text().splitlines()[0])) == {
        "step", "loss", "lr", "seconds", "tokens_per_second", "update_norms"
    }  # fmt: skip


def test_a_line_is_there_before_the_file_is_closed(tmp_path: Path) -> None:
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        metrics.append(record(1))
        assert read_records(metrics.path) == [record(1)]


@pytest.mark.parametrize("cut", range(1, len(to_line(record(3))) + 1))
def test_a_half_written_last_line_is_left_out_and_overwritten(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "metrics.jsonl", 3)
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_records(path) == [record(1), record(2)]
    with MetricsFile(path, step=2) as metrics:
        metrics.append(record(3))
    assert read_records(path) == [record(1), record(2), record(3)]


def test_going_on_forgets_the_lines_after_the_checkpoint(tmp_path: Path) -> None:
    path = written(tmp_path / "metrics.jsonl", 5)
    with MetricsFile(path, step=2) as metrics:
        metrics.append(record(3))
    assert [r.step for r in read_records(path)] == [1, 2, 3]


def test_a_new_run_forgets_everything(tmp_path: Path) -> None:
    path = written(tmp_path / "metrics.jsonl", 5)
    MetricsFile(path).close()
    assert read_records(path) == []


@pytest.mark.parametrize(
    "line",
    ["nonsense", "{}", "[]", "3", '{"step": "x"}', '{"step": 3, "loss": 1', "\xff", "[" * 100_000,
     to_line(record(3)).replace("3.0", '"soon"'), to_line(record(7)), ""],
)  # fmt: skip
def test_a_damaged_line_that_a_resumed_run_needs_is_said(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / "metrics.jsonl", 5)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line.rstrip("\n"), *lines[3:]]) + "\n")
    before = path.read_bytes()
    with pytest.raises(UserError, match="has no record of step 3 in line 3, and .* is of step 4"):
        MetricsFile(path, step=4)
    assert path.read_bytes() == before
    with MetricsFile(path, step=2) as metrics:
        metrics.append(record(3))
    assert read_records(path) == [record(1), record(2), record(3)]


def test_numbers_that_are_not_finite_come_back(tmp_path: Path) -> None:
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        metrics.append(Record(1, math.inf, math.nan, 1.0, 1e4))
    (found,) = read_records(metrics.path)
    assert found.loss == math.inf and math.isnan(found.lr)


def test_no_file_is_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "none.jsonl") == []


def test_a_full_disk_is_one_sentence() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    metrics = MetricsFile.__new__(MetricsFile)
    metrics.path, metrics._file = full, full.open("a")
    with pytest.raises(UserError, match="cannot write /dev/full: No space left"):
        metrics.append(record(1))
    with pytest.raises(UserError, match="No space left"):
        metrics.close()
