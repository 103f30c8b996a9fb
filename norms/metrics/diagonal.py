"""Diagonal second moments, as Adam keeps them, and multiples of the identity."""

from __future__ import annotations

from dataclasses import dataclass

from modula.norms.checks import check_fields
from modula.norms.metrics.base import Memory, Metric


@dataclass(frozen=True, repr=False)
class Diagonal(Metric):
    """S = batch diag E[g^2], an average: the Gaussian-KL projection of E[g g^T] on diagonals.

        ||w||^2 = sum of (S^p + floor) w^2        w, g: all entries of one weight

    floor      added to S^p (Adam's epsilon)
    statistic  name of what is squared: "gradient", or "sampled_gradient" for a Fisher
    batch      independent samples that g is the mean of: S = batch E[g^2], which does not depend
               on it, as powers above 1/2 need; what is kept, and memory.first, is E[g^2]
    Source: Kingma and Ba 2015, arXiv:1412.6980; Duchi et al. 2011 for the sum.
    """

    memory: Memory = Memory()
    floor: float = 1e-8
    power: float = 0.5
    statistic: str = "gradient"
    batch: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not (self.floor >= 0 and self.power > 0 and self.batch > 0):
            raise ValueError(f"Diagonal needs floor >= 0, power > 0 and batch > 0; got {self}")


@dataclass(frozen=True, repr=False)
class Scalar(Metric):
    """S = E ||g||^2 / entries, one number a weight: the KL projection on multiples of I.

    Source: Ward, Wu, Bottou 2019 (AdaGrad-Norm), arXiv:1806.01811.
    """

    memory: Memory = Memory()
    power: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.power > 0:
            raise ValueError(f"Scalar needs power > 0; got {self.power}")
