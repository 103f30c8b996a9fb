"""The PSGD family: metrics fitted by multiplications, with Kronecker or low-rank factors."""

from __future__ import annotations

from typing import Any

from torch import nn

from modula.norms.metrics.low_rank import LowRank
from modula.norms.metrics.psgd import EQ, PSGD
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import matrices_and_others
from modula.recipes.options import checked
from modula.recipes.shampoo import preconditioned


@checked(matrices_and_others)
def psgd_pro(
    model: nn.Module,
    lr: float = 0.01,
    *,
    momentum: float = 0.9,
    rate: float = 0.1,
    last_rate: float = 0.01,
    every: int = 2,
    damping: float = 1e-6,
    max_dim: int = 2048,
    square: bool = True,
    statistic: str = "gradient",
    **options: Any,
) -> SteepestDescent:
    """PSGD with the PRO fit on hidden matrices, AdamW on all other weights.

        W = P_1 G P_2,   Q_1 <- Q_1 - mu / L_1 (W W^T / n - I) Q_1,   Q_2 likewise
        w <- (1 - lr weight_decay) w - lr P_1 m P_2        P_i = Q_i^T Q_i, m: average of G

    KL-Shampoo's metric by matrix products alone, which half precision survives.

    rate, last_rate  mu at first and at last, as it falls with the root of the updates
    every            steps from one update of Q to the next, the weights of a network in turn
    statistic        "gradient", whose whitening gives a direction with entries of an RMS near
                     sqrt((1 - momentum)/(1 + momentum)), or "query": the average itself is
                     whitened, to an RMS of 1, and wants a smaller lr by that factor
    square           cut a weight 2 to 8 times longer than wide into square blocks, each with P_1
                     and P_2 of its own; False keeps it whole, as published

    The reference has lr 1e-3, an update of Q in every step, damping 1e-9, and clips directions.
    Source: Li, github.com/lixilinx/psgd_torch.
    """
    metric = PSGD(
        rate=rate,
        last_rate=last_rate,
        every=every,
        damping=damping,
        max_dim=max_dim,
        square=square,
        statistic=statistic,
    )
    return preconditioned(model, lr, metric, momentum, options)


@checked(matrices_and_others)
def psgd(
    model: nn.Module,
    lr: float = 0.01,
    *,
    momentum: float = 0.9,
    rate: float = 0.1,
    last_rate: float = 0.01,
    every: int = 2,
    damping: float = 1e-6,
    max_dim: int = 2048,
    square: bool = True,
    statistic: str = "gradient",
    **options: Any,
) -> SteepestDescent:
    """PSGD Kron, the original with triangular factors, on hidden matrices; AdamW on the others.

    Options as for psgd_pro, which costs less: this one needs triangular solves.  The reference has
    lr 1e-3, the same rate, and balances the sizes of its factors now and then.
    Source: Li 2015, arXiv:1512.04202.
    """
    metric = PSGD(
        solver=EQ(),
        rate=rate,
        last_rate=last_rate,
        every=every,
        damping=damping,
        max_dim=max_dim,
        square=square,
        statistic=statistic,
    )
    return preconditioned(model, lr, metric, momentum, options)


@checked(matrices_and_others)
def psgd_lra(
    model: nn.Module,
    lr: float = 0.01,
    *,
    rank: int = 10,
    momentum: float = 0.9,
    rate: float = 0.1,
    last_rate: float = 0.01,
    every: int = 2,
    damping: float = 1e-6,
    statistic: str = "gradient",
    **options: Any,
) -> SteepestDescent:
    """PSGD with a diagonal and a low rank for each hidden matrix as a whole, AdamW on the others.

        Q = (I + U V^T) diag(d),   w <- (1 - lr weight_decay) w - lr Q^T Q m       U, V: (mn, rank)

    Options as for psgd_pro.  It knows no rows and columns, and keeps 2 rank + 1 numbers an entry.

    Source: Li, github.com/lixilinx/psgd_torch, "LRA".
    """
    metric = LowRank(rank, rate, last_rate, every=every, damping=damping, statistic=statistic)
    return preconditioned(model, lr, metric, momentum, options)
