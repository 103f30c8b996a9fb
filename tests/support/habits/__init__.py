"""What a person does to an optimizer, and what then happens: the table behind docs/contract.md."""

from habits import gradients, groups, loops, state, weights
from habits.table import HABITS, Habit, Outcome, outcomes

__all__ = [
    "HABITS",
    "Habit",
    "Outcome",
    "gradients",
    "groups",
    "loops",
    "outcomes",
    "state",
    "weights",
]
