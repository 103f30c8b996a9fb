"""The refresh schedule: in which steps a line runs that does not run in all of them."""

from collections.abc import Sequence


def is_due(step: int, every: int, early: bool, offset: int = 0) -> bool:
    """Whether a line that runs every so many steps runs in this one, counted from 1.

    early   whether it also runs in steps 1, 2, 4, 8, ... up to the first: averages change fast then
    offset  of the weight's turn, so that not all weights of a network are refreshed at once
    """
    young = step <= every and step & (step - 1) == 0 if early else step == 1
    return young or (step + offset) % every == 0


def turns(waits: Sequence[bool]) -> list[float]:
    """For each weight its share of the cycle, in [0, 1): those that wait are spread evenly.

    waits  whether a weight has lines that do not run in every step
    """
    found, before, total = [], 0, max(1, sum(waits))
    for wait in waits:
        found.append(before / total)
        before += wait
    return found
