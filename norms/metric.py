"""A metric: other coordinates in which a norm is measured, estimated from the gradients."""

from abc import ABC
from dataclasses import dataclass


class Metric(ABC):
    """What a metric estimates; the duality layer turns it into lines of the program."""


@dataclass(frozen=True)
class Diagonal(Metric):
    """S = diag E[g^2], an exponential average: the Gaussian-KL projection of E[g g^T] on diagonals.

        ||w||^2 = w^T S^(1/2) w        w, g: all entries of one weight

    beta   of the average, floor  added to sqrt(S) (Adam's epsilon).
    Source: Kingma and Ba 2015, arXiv:1412.6980.
    """

    beta: float = 0.999
    floor: float = 1e-8

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1 or self.floor < 0:
            raise ValueError(f"Diagonal needs 0 <= beta < 1 and floor >= 0; got {self}")
