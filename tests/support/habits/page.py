"""The table of habits as a page: `python -m habits` in tests/support writes docs/contract.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from habits.table import HABITS, Habit, Outcome, outcomes
from modula.recipes import RECIPES

PAGE = Path(__file__).resolve().parents[3] / "docs" / "contract.md"
PARTS = ("Gradients", "Weights", "Training loops", "param_groups", "State")
INTRODUCTION = f"""\
# What happens when I ...

What a person does to an optimizer, and what then happens, for each of the {len(RECIPES)} recipes.
Every row is a test: what it says is asserted with values, on a small network of an embedding,
matrices, biases and gains.  The last column has what a recipe refuses, in the words it is refused
in; weights and state are then what they were.

Printed by `make contract`.
"""


def row(each: Habit, found: Mapping[str, Outcome]) -> str:
    """One line of the page."""
    refusals: dict[str, list[str]] = {}
    for recipe, sentence in found.items():
        if sentence is not None:
            refusals.setdefault(sentence, []).append(recipe)
    told = [f"{_names(recipes)}: *{_cell(text)}*" for text, recipes in refusals.items()]
    return f"| ... {_cell(each.when)} | {_cell(each.promise)} | {'<br>'.join(told)} |"


def page(rows: Mapping[str, str]) -> str:
    """All rows, by the name of their habit, under the parts of the table."""
    head = "| | what happens | but, for some, in these words |\n| --- | --- | --- |"
    tables = []
    for part in PARTS:
        own = [text for name, text in rows.items() if HABITS[name].part == part]
        tables.append("\n".join((f"## {part}\n\n{head}", *own)))
    return "\n".join((INTRODUCTION, "\n\n".join(tables), ""))


def written() -> str:
    """The page as it is now."""
    return page({name: row(each, outcomes(each)) for name, each in HABITS.items()})


def _names(recipes: Iterable[str]) -> str:
    recipes = list(recipes)
    others = [name for name in RECIPES if name not in recipes]
    if not others:
        return "all"
    if len(others) < 4:
        return f"all but {', '.join(others)}"
    return ", ".join(recipes)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
