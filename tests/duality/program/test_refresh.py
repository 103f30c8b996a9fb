"""The refresh schedule: which steps a line runs in, and how weights take turns."""

import pytest

from modula.duality.program.refresh import is_due, turns


def test_early_lines_run_in_powers_of_two_and_then_every_so_often() -> None:
    due = [step for step in range(1, 31) if is_due(step, 10, early=True)]
    assert due == [1, 2, 4, 8, 10, 20, 30]


def test_others_run_first_and_then_every_so_often() -> None:
    assert [step for step in range(1, 31) if is_due(step, 10, early=False)] == [1, 10, 20, 30]


@pytest.mark.parametrize("offset", range(10))
def test_an_offset_moves_the_turn(offset: int) -> None:
    due = [step for step in range(11, 41) if is_due(step, 10, early=True, offset=offset)]
    assert len(due) == 3 and all((step + offset) % 10 == 0 for step in due)


def test_those_that_wait_share_the_cycle_evenly() -> None:
    assert turns([True, False, True, True, True]) == [0.0, 0.25, 0.25, 0.5, 0.75]
    assert turns([False, False]) == [0.0, 0.0]
