"""docs/contract.md: what a person does to an optimizer, done with every recipe."""

import pytest

from habits import HABITS, outcomes
from habits.page import PAGE, row

LINES = PAGE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", HABITS)
def test_the_page_says_what_happens(name: str) -> None:
    found = row(HABITS[name], outcomes(HABITS[name]))
    assert found in LINES, f"docs/contract.md says something else; `make contract` writes\n{found}"


def test_every_row_of_the_page_is_a_habit() -> None:
    rows = [line for line in LINES if line.startswith("| ... ")]
    assert len(rows) == len(HABITS)
