"""PSGD's low-rank metric: the entries of a weight as one vector, scaled, and a few directions."""

from __future__ import annotations

from dataclasses import dataclass

from modula.norms.checks import check_fields
from modula.norms.metrics.base import Metric
from modula.norms.metrics.psgd import check_rates


@dataclass(frozen=True, repr=False)
class LowRank(Metric):
    """S^-1/2 = Q^T Q with Q = (I + U V^T) diag(d) over all N entries g of a weight.

        A = aa^T - Q^-T Q^-1,  a = Q g                     g, d: (N,), U, V: (N, rank)
        U <- U - mu / L_U  A V (I + V^T U)
        V <- V - mu / L_V  (I + V U^T) A U
        d <- d (1 - mu / L_d  diag(Q^T Q g g^T - (Q^T Q)^-1))

    Follows the criterion E[g^T P g] + trace(P^-1), P = Q^T Q, least at P = E[g g^T]^-1/2 where that
    is of this kind.  Takes N rank^2 operations a step and 2 rank + 1 numbers an entry.  The mean of
    the random probes of the original stands in for them, and U and V advance together.

    rate, last_rate, horizon, every, size_beta, bound_beta, damping   as for PSGD

    Source: Li, github.com/lixilinx/psgd_torch, "LRA"; Pooladzandi and Li 2024, arXiv:2402.04553.
    """

    rank: int = 10
    rate: float = 0.1
    last_rate: float = 0.01
    horizon: float = 1e4
    every: int = 1
    size_beta: float = 0.95
    bound_beta: float = 0.9
    damping: float = 1e-6
    statistic: str = "gradient"

    def __post_init__(self) -> None:
        check_fields(self)
        check_rates(self)
        if self.rank < 1:
            raise ValueError(f"LowRank needs rank >= 1; got {self.rank}: Diagonal() has none")

    @property
    def power(self) -> float:
        return 0.5
