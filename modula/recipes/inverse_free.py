"""Kronecker metrics kept by products alone, without roots and inverses: IF-Shampoo, SINGD."""

from __future__ import annotations

from typing import Any

from torch import nn

from modula.duality import Behind, HeavyBall
from modula.norms.metrics.inverse_free import SINGD, InverseFree
from modula.norms.metrics.kronecker import Dense, Mode
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import matrices_and_others
from modula.recipes.kfac import along_gradient, in_layers
from modula.recipes.options import checked
from modula.recipes.shampoo import preconditioned


@checked(matrices_and_others)
def if_shampoo(
    model: nn.Module,
    lr: float = 1e-3,
    *,
    modes: Mode | tuple[Mode, ...] = Dense(),
    momentum: float = 0.9,
    rate: float = 0.05,
    metric_momentum: float = 0.5,
    damping: float = 1e-3,
    batch_size: float = 1.0,
    max_dim: int = 2048,
    square: bool = True,
    **options: Any,
) -> SteepestDescent:
    """IF-Shampoo on hidden matrices, AdamW on all other weights: no roots, no inverses.

        X = K^T G C,   K <- K (I - rate / 2 (batch_size X X^T / n + ... - I)),   C likewise
        v <- momentum v + K K^T G C C^T,   w <- (1 - lr weight_decay) w - lr v

    A power of one has units: damping and lr depend on the size of the loss, and `batch_size` has
    to be the B of its mean for them to be the same at another B.  `modes` says what is kept of K
    and C, or of both: BlockDiagonal(30), Triangular(), ...  Weights 2 to 8 times longer than wide
    are cut into square blocks, each with K and C of its own, unless square=False, as published.

    Defaults are the reference's, but for its rate of 0.01, which the paper searches in 0.05 to 0.5.
    Source: Lin et al. 2024, arXiv:2402.03496.
    """
    metric = InverseFree(
        modes,
        rate=rate,
        momentum=metric_momentum,
        damping=damping,
        batch_size=batch_size,
        max_dim=max_dim,
        square=square,
    )
    return preconditioned(model, lr, metric, Behind(HeavyBall(momentum)), options)


@checked(matrices_and_others)
def singd(
    model: nn.Module,
    lr: float = 1e-3,
    *,
    modes: Mode | tuple[Mode, ...] = Dense(),
    momentum: float = 0.9,
    rate: float = 0.01,
    metric_momentum: float = 0.5,
    damping: float = 1e-3,
    cross: bool = True,
    max_dim: int = 4096,
    **options: Any,
) -> SteepestDescent:
    """SINGD on hidden matrices, AdamW on all other weights: K-FAC without inverses.

        S = E[e e^T] x E[x x^T] for a layer y = W x and the gradients e of its outputs
        v <- momentum v + S^-1 G,   w <- (1 - lr weight_decay) w - lr v

    cross=False is IKFAC, K-FAC's own averages; metric_momentum=0 belongs to it.  `modes` says what
    is kept of both sides' factors, or of each: BlockDiagonal(30), Triangular(), ...

    Defaults are the reference's, which looks at a layer every 10 steps and ours in every step.
    Source: Lin et al. 2024, arXiv:2312.05705.
    """
    metric = SINGD(
        modes, rate, momentum=metric_momentum, damping=damping, cross=cross, max_dim=max_dim
    )
    return in_layers(model, lr, metric, along_gradient(Behind(HeavyBall(momentum))), options)
