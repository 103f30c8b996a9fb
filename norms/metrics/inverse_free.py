"""Kronecker metrics of power one that keep K with S = (K K^T)^-1, and never invert anything."""

from __future__ import annotations

from dataclasses import dataclass

from modula.norms.checks import check_fields
from modula.norms.metrics.base import Memory, Metric
from modula.norms.metrics.kronecker import Dense, Kronecker, Mode


@dataclass(frozen=True, repr=False)
class InverseFree(Metric):
    """S = S_1 x ... x S_k of the gradient, S_i = (K_i K_i^T)^-1: natural-gradient steps on K_i.

        X = K_1^T G K_2                                                            G: (m, n)
        H = (batch_size X X^T / n + damping trace(K_2^T K_2) / n K_1^T K_1 - I) / 2
        M <- momentum M + (1 - momentum) H,   K_1 <- K_1 (I - rate M / max(1, ||M||_F))

    To first order S_1 <- S_1 + rate (E[G S_2^-1 G^T] / n - S_1): KL-Shampoo's S, without its roots.

    modes       kind of each dim's factor, or one kind for all: Dense, Triangular, BlockDiagonal,
                DiagonalMode, Flat; a whole one that is too wide is diagonal
    rate        like 1 - beta of an average, while ||M||_F <= 1
    momentum    of M, in the coordinates in which the Fisher matrix of S is a multiple of I
    damping     added to S, in units of batch_size G^2: a power of one has units
    size_beta   the size of S, one number, is an average with this factor: bounded steps alone
                would be long in following gradients that grow.  1 leaves it to them, after the
                first gradient, as published
    batch_size  B of a loss that is a mean over B examples: what a gradient of the summed loss
                scatters is B times what that of the mean does
    square, max_dim, statistic   as for Kronecker

    Source: Lin et al. 2024, arXiv:2402.03496.
    """

    modes: Mode | tuple[Mode, ...] = Dense()
    rate: float = 0.05
    momentum: float = 0.5
    damping: float = 1e-3
    size_beta: float = 0.95
    batch_size: float = 1.0
    square: bool = True
    max_dim: int = 2048
    statistic: str = "gradient"

    def __post_init__(self) -> None:
        check_fields(self)
        _check_steps(self)
        if not self.batch_size > 0:
            raise ValueError(f"InverseFree needs batch_size > 0; got {self.batch_size}")

    @property
    def power(self) -> float:
        return 1.0

    @property
    def product(self) -> Kronecker:
        """The Kronecker metric that this one fits, for its blocks and modes."""
        return Kronecker(self.modes, memory=Memory(1.0), square=self.square, max_dim=self.max_dim)


@dataclass(frozen=True, repr=False)
class SINGD(Metric):
    """K-FAC without inverses: S = S_out x S_in of a layer's output gradients and inputs.

        U_out = K^T E[e e^T] K,   U_in = C^T E[x x^T] C        K: (out, out), C: (in, in)
        H_out = (U_out trace(U_in) / in + damping trace(C^T C) / in K^T K - I) / 2
        M <- momentum M + (1 - momentum) H,   K <- K (I - rate M / max(1, ||M||_F));  likewise C

    cross  whether each factor sees the other's size, as the KL projection of the Fisher matrix
           asks; without it (IKFAC) both traces are left out, S_out <- S_out + rate (E[e e^T] +
           damping I - S_out) to first order, which are K-FAC's averages
    modes, rate, momentum, damping, size_beta, max_dim   as for InverseFree; IKFAC's two factors
           have a size each.  Two modes are those of the outputs and of the inputs
    inputs_first   whether the weight is stored (in, out), as transformers' Conv1D stores it

    Source: Lin et al. 2024, arXiv:2312.05705.
    """

    modes: Mode | tuple[Mode, ...] = Dense()
    rate: float = 0.01
    momentum: float = 0.5
    damping: float = 1e-3
    cross: bool = True
    size_beta: float = 0.95
    max_dim: int = 4096
    inputs_first: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        _check_steps(self)

    @property
    def power(self) -> float:
        return 1.0


def _check_steps(metric: InverseFree | SINGD) -> None:
    if not 0 < metric.rate < 1 or not 0 <= metric.momentum < 1:
        raise ValueError(f"{metric} needs 0 < rate < 1 and 0 <= momentum < 1")
    if not metric.damping >= 0 or metric.max_dim < 1 or not 0 <= metric.size_beta <= 1:
        raise ValueError(f"{metric} needs damping >= 0, max_dim >= 1 and 0 <= size_beta <= 1")
