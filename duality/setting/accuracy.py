"""Accuracies: how near a direction has to be to the steepest one."""

from abc import ABC
from dataclasses import dataclass


class Accuracy(ABC):
    """What a rule may leave out of the steepest direction to be fast."""


@dataclass(frozen=True)
class Fast(Accuracy):
    """Spectral directions by few matrix products.

    Muon's singular values are off by up to 6 % from a short side of 33 up in float32; by less than
    1e-4 below that, and by 1e-7 in float64.  Those far below the largest are smaller than that: the
    plan says from where on.  On Stiefel weights that are not square 0.1 to 7 % of the descent are
    missed, and the direction is never too long.
    """


@dataclass(frozen=True)
class Exact(Accuracy):
    """Directions by decompositions: the norm's own duality map, or the general solver.

    To rounding without a manifold.  On one, as near as the solver's rounds come: 1e-5 of the
    descent, as a rule.  An SVD takes 2 to 10 times as long as Muon's products, the solver 50 SVDs.
    """
