"""How long the step is, once its direction is known."""

from abc import ABC
from dataclasses import dataclass


class Potential(ABC):
    """The convex function whose conjugate's gradient turns a momentum into an update."""


@dataclass(frozen=True)
class Unit(Potential):
    """Norm one, whatever the gradient's size: argmax of <g, t> over ||t|| <= 1.  Muon, sign."""


@dataclass(frozen=True)
class Sharp(Potential):
    """As long as the gradient, in the dual norm: argmax of <g, t> - ||t||^2 / 2.  SGD."""
