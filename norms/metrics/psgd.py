"""PSGD: a Kronecker metric whose inverse root is fitted by multiplications, never computed."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modula.norms.checks import check_fields
from modula.norms.metrics.base import Memory, Metric
from modula.norms.metrics.kronecker import Dense, Kronecker, Mode

if TYPE_CHECKING:
    from modula.norms.metrics.low_rank import LowRank


class Solver(ABC):
    """How the factors Q_i of S^-1/2 = (Q_1^T Q_1) x ... x (Q_k^T Q_k) follow the gradients."""


@dataclass(frozen=True)
class PRO(Solver):
    """Matrix products alone; where it comes to rest, S is the Gaussian-KL projection: KL-Shampoo.

        W = P_1 G P_2,  C_1 = W W^T / n,  Q_1 <- Q_1 - mu / L_1 (C_1 - I) Q_1      G: (m, n)

    rotate_every  updates from one rotation of Q_i towards its symmetric root to the next: products
                  of symmetric matrices are not quite symmetric

    Source: Li, github.com/lixilinx/psgd_torch, "Q0.5EQ1.5"; Pooladzandi and Li 2024,
    arXiv:2402.04553, for the group.
    """

    rotate_every: int = 10

    def __post_init__(self) -> None:
        check_fields(self)
        if self.rotate_every < 1:
            raise ValueError(f"PRO needs rotate_every >= 1; got {self.rotate_every}")


@dataclass(frozen=True)
class EQ(Solver):
    """Triangular Q_i and the criterion E[g^T P g] + trace(P^-1), least at P = E[g g^T]^-1/2.

        A = Q_1 G Q_2^T,  B_1 = Q_1^-T Q_1^-1 ||Q_2^-1||_F^2
        Q_1 <- Q_1 - mu / L_1 triu((A A^T - B_1) / n) Q_1                          G: (m, n)

    B_1 is the mean over the random probes V of B B^T, B = Q_1^-T V Q_2^-1: none are drawn.  The
    same metric as PRO where E[g g^T] is a Kronecker product, another one elsewhere.

    Source: Li 2015, arXiv:1512.04202.
    """


@dataclass(frozen=True, repr=False)
class PSGD(Metric):
    """S^-1/2 = P_1 x ... x P_k with P_i = Q_i^T Q_i, one factor a dim of the weight.

    modes       kind of each dim's factor, or one kind for all; what is too wide is diagonal
    solver      PRO or EQ
    rate        mu in the first step: how far Q_i follows one gradient
    last_rate   mu_k = max(last_rate, rate / sqrt(1 + k / horizon)) in update k
    horizon     the updates after which mu has fallen by sqrt(2)
    every       steps from one update of the factors to the next, fewer at first
    size_beta   the size of S, one number, is an average with this factor: bounded steps alone
                would be long in following gradients that grow.  1 leaves it to them, after the
                first gradient, as published
    bound_beta  L_i, the Lipschitz constant, falls by this factor a step at most; it rises at once
    damping     the smallest eigenvalue of a factor of S, in units of its mean: roots S_i^1/2 grow
                by half of the root of that, as by Adam's epsilon
    square, max_dim, statistic   as for Kronecker

    S remembers about L_i / (4 mu) gradients, the more the longer the weight is for its width: both
    factors can always be told apart.  Their sizes are made equal in every update.
    """

    modes: Mode | tuple[Mode, ...] = Dense()
    solver: Solver = PRO()
    rate: float = 0.1
    last_rate: float = 0.01
    horizon: float = 1e4
    every: int = 1
    size_beta: float = 0.95
    bound_beta: float = 0.9
    damping: float = 1e-6
    square: bool = True
    max_dim: int = 2048
    statistic: str = "gradient"

    def __post_init__(self) -> None:
        check_fields(self)
        check_rates(self)
        if self.max_dim < 1:
            raise ValueError(f"PSGD needs max_dim >= 1; got {self.max_dim}")

    @property
    def power(self) -> float:
        return 0.5

    @property
    def product(self) -> Kronecker:
        """The Kronecker metric that this one fits, for its blocks and modes."""
        return Kronecker(self.modes, memory=Memory(1.0), square=self.square, max_dim=self.max_dim)


def check_rates(metric: PSGD | LowRank) -> None:
    """Raise ValueError if the metric cannot follow gradients at these rates."""
    name = type(metric).__name__
    if not 0 < metric.last_rate <= metric.rate < 1 or metric.horizon <= 0:
        raise ValueError(
            f"{name} needs 0 < last_rate <= rate < 1 and horizon > 0; got "
            f"last_rate {metric.last_rate}, rate {metric.rate}, horizon {metric.horizon}"
        )
    if not (0 <= metric.bound_beta < 1 and 0 <= metric.size_beta <= 1 and metric.damping >= 0):
        raise ValueError(
            f"{name} needs 0 <= bound_beta < 1, 0 <= size_beta <= 1 and damping >= 0; got "
            f"bound_beta {metric.bound_beta}, size_beta {metric.size_beta}, "
            f"damping {metric.damping}"
        )
    if metric.every < 1:
        raise ValueError(f"{name} needs every >= 1; got {metric.every}")
