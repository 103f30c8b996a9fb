"""Habits by name, and their outcomes over all recipes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from modula.recipes import RECIPES

Outcome = str | None  # the sentence of a refusal; None where what was promised happened
Perform = Callable[[str], Outcome]


@dataclass(frozen=True)
class Habit:
    """One thing that a person does.

    part      of the page
    when      ends the sentence "What happens when I ..."
    promise   what happens
    perform   does it with the recipe of a name and asserts the promise, or an expected refusal
    """

    part: str
    when: str
    promise: str
    perform: Perform


HABITS: dict[str, Habit] = {}


def habit(part: str, when: str, promise: str) -> Callable[[Perform], Perform]:
    """Enter a function in the table, under its name."""

    def enter(perform: Perform) -> Perform:
        HABITS[perform.__name__] = Habit(part, when, promise, perform)
        return perform

    return enter


def outcomes(each: Habit, recipes: Iterable[str] = RECIPES) -> dict[str, Outcome]:
    """The outcome by recipe; AssertionError names all recipes that broke the promise."""
    found, broken = dict[str, Outcome](), []
    for recipe in recipes:
        try:
            found[recipe] = each.perform(recipe)
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [""]
            broken.append(f"{recipe}: {type(error).__name__}: {' '.join(lines[:4])[:300]}")
    assert not broken, "\n".join((f"{len(broken)} recipes, {each.promise}:", *broken))
    return found


def refused(
    act: Callable[[], object], words: str, kind: type[Exception] = ValueError
) -> str | None:
    """The sentence with which an act is refused, which these words match; None where it is not."""
    try:
        act()
    except kind as error:
        sentence = str(error)
        assert re.search(words, sentence), sentence
        assert "\n" not in sentence, sentence
        return sentence
    return None


def always_refused(
    act: Callable[[], object], words: str, kind: type[Exception] = ValueError
) -> str:
    """The sentence of an act that no recipe does."""
    sentence = refused(act, words, kind)
    assert sentence is not None, "was not refused"
    return sentence
