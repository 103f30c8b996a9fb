"""Recipes under a Kronecker metric of the gradients: the Shampoo family."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

from torch import Tensor, nn

from modula.duality import (
    Graft,
    LimitRMS,
    MatchRMS,
    Momentum,
    Scaler,
    Setting,
    Unbiased,
)
from modula.network.geometry import Geometry
from modula.norms.metrics.base import Memory, Metric
from modula.norms.metrics.kronecker import (
    KL,
    Dense,
    DenseIfShortest,
    Kronecker,
    Mode,
    Sum,
    TraceScaled,
)
from modula.norms.vector import L2
from modula.optimizer.param_groups import OWN_NAMES, Names
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import (
    BETAS,
    Correction,
    adam_options,
    average_of,
    matrices_and_others,
    preconditioned_setting,
    taken_for_groups,
)
from modula.recipes.options import checked

GUARD = LimitRMS(3.0)  # entries of whitened directions have an RMS of about 1 or below


def preconditioned(
    model: nn.Module,
    lr: float,
    metric: Metric,
    momentum: float | Momentum,
    options: dict[str, Any],
    scalers: tuple[Scaler, ...] = (),
    names: Names = OWN_NAMES,
) -> SteepestDescent:
    """Hidden matrices along S^-p m, whatever the metric; all other weights by AdamW.

    momentum  of an average of the gradients, unless it says of what
    options   those of `matrices_and_others` are taken out; SteepestDescent gets the rest
    scalers   those of the recipe; others may follow in the options
    names     of the matrices' options in param_groups
    """
    own = taken_for_groups(options)
    scalers += own.pop("scalers", ())
    average = average_of(momentum)

    def setting(geometry: Geometry, weight: Tensor) -> Setting:
        return preconditioned_setting(geometry, weight, metric, average)

    matrices, others = matrices_and_others(model, lr, setting, scalers=scalers, **own)
    groups = [replace(matrices, names=names), others]
    return SteepestDescent(model, lr, groups=groups, **options)


@checked(matrices_and_others)
def kl_shampoo(
    model: nn.Module,
    lr: float = 0.01,
    *,
    modes: Mode | tuple[Mode, ...] = Dense(),
    momentum: float = 0.9,
    beta: float = 0.95,
    damping: float = 1e-4,
    every: int = 10,
    max_dim: int = 2048,
    square: bool = True,
    **options: Any,
) -> SteepestDescent:
    """KL-Shampoo on hidden matrices, AdamW on all other weights.

        S_1 <- beta S_1 + (1 - beta) G S_2^-1 G^T / n,   S_2 <- ... G^T S_1^-1 G / m
        w <- (1 - lr weight_decay) w - lr S_1^-1/2 m S_2^-1/2          m: average of G

    The factors' sizes are kept equal and their roots renewed every `every` steps, the weights of a
    network in turn.  A direction's entries have an RMS near sqrt((1 - momentum)/(1 + momentum)),
    and at most twice that: gradients that grow while the roots wait would else seem huge.

    modes    what is kept of S_1 and S_2, or of both: BlockDiagonal(size), DiagonalMode(), ...
    damping  added to a factor, in units of its mean eigenvalue; in float32 eigenvalues below 1.9e-6
             of the largest count as that before, whatever the damping
    square   cut a weight 2 to 8 times longer than wide into square blocks, each with S_1 and S_2 of
             its own, as the plan shows; False keeps it whole, as published

    The reference has lr 1e-4, betas 0.9 and 0.98, 1e-8 I added to a factor and weight decay 0.01
    behind the step; it begins with 0.1 I and leaves out the first step.
    Source: Lin et al. 2025, arXiv:2509.03378.
    """
    guard = LimitRMS(2 * sqrt((1 - momentum) / (1 + momentum)))
    metric = Kronecker(
        modes,
        KL(),
        memory=Memory(beta, unbiased=False),
        damping=damping,
        every=every,
        max_dim=max_dim,
        square=square,
    )
    return preconditioned(model, lr, metric, momentum, options, (guard,))


@checked(matrices_and_others)
def shampoo(
    model: nn.Module,
    lr: float = 1e-3,
    *,
    betas: tuple[float, float] = (0.9, 0.99),
    damping: float = 1e-6,
    every: int = 10,
    max_dim: int = 2048,
    square: bool = True,
    graft_beta: float = 0.999,
    graft_eps: float = 1e-8,
    corrected: Correction | None = None,
    **options: Any,
) -> SteepestDescent:
    """Shampoo grafted to Adam on hidden matrices, AdamW on all other weights.

        L: average of G G^T,   R: average of G^T G,   D = L^-1/4 m R^-1/4
        w <- (1 - lr weight_decay) w - lr ||A|| D / ||D||,   A = m / (sqrt(v) + graft_eps)

    betas       of the averages m and L, R, bias-corrected; 1 adds L and R up, as published
    damping     added to a factor, in units of its mean eigenvalue; see `kl_shampoo` for its floor
    square      False keeps long weights whole, as published: see `kl_shampoo`
    graft_beta  of Adam's v; A is of the same m
    corrected   see `bias_corrected`

    The reference implementation has betas (0.9, 1), new roots in every step (its README advises
    every 100), and 1e-12 I added to a factor.
    Source: Gupta, Koren, Singer 2018, arXiv:1802.09568; Shi et al. 2023, arXiv:2309.06497.
    """
    metric = Kronecker(
        fit=Sum(),
        memory=Memory(betas[1]),
        damping=damping,
        every=every,
        max_dim=max_dim,
        square=square,
    )
    adam = Setting(L2(), **adam_options((betas[0], graft_beta), graft_eps))
    used = corrected(metric) if corrected else metric
    return preconditioned(model, lr, used, Unbiased(betas[0]), options, (Graft(adam),), BETAS)


@checked(matrices_and_others)
def shampoo_squared(
    model: nn.Module,
    lr: float = 0.01,
    *,
    momentum: float = 0.9,
    beta: float = 0.95,
    damping: float = 1e-4,
    every: int = 10,
    max_dim: int = 2048,
    square: bool = True,
    **options: Any,
) -> SteepestDescent:
    """Shampoo to the power 1/2 a side, on hidden matrices; AdamW on all other weights.

        L: average of G G^T,   R: average of G^T G
        w <- (1 - lr weight_decay) w - lr sqrt(trace L) L^-1/2 m R^-1/2

    A step has an RMS of at most 3, and is not grafted: L x R / trace L has the size of E[g g^T].
    damping and square are those of `kl_shampoo`; square=False is as published.
    Source: Morwani et al. 2024, arXiv:2406.17748.
    """
    metric = Kronecker(
        fit=TraceScaled(),
        memory=Memory(beta),
        damping=damping,
        every=every,
        max_dim=max_dim,
        square=square,
    )
    return preconditioned(model, lr, metric, momentum, options, (GUARD,))


@checked(matrices_and_others)
def one_sided(
    model: nn.Module,
    lr: float = 0.01,
    *,
    momentum: float = 0.9,
    beta: float = 0.95,
    damping: float = 1e-4,
    every: int = 10,
    max_dim: int = 2048,
    **options: Any,
) -> SteepestDescent:
    """Shampoo along the short side of hidden matrices; AdamW on all other weights.

        V <- beta V + (1 - beta) G G^T / n          G: (m, n), m <= n; else G^T G / m on the right
        w <- (1 - lr weight_decay) w - lr V^-1/2 m

    Without memory it is Muon: V^-1/2 G = sqrt(n) polar(G), of RMS 1.  At most 3 is the RMS of any.
    Source: Xie et al. 2025, arXiv:2503.10537; An et al. 2025 (ASGO), arXiv:2503.20762.
    """
    metric = Kronecker(
        DenseIfShortest(), memory=Memory(beta), damping=damping, every=every, max_dim=max_dim
    )
    return preconditioned(model, lr, metric, momentum, options, (GUARD,))


@checked(matrices_and_others)
def asgo(
    model: nn.Module,
    lr: float = 3e-3,
    *,
    betas: tuple[float, float] = (0.9, 0.8),
    damping: float = 1e-6,
    every: int = 1,
    max_dim: int = 2048,
    **options: Any,
) -> SteepestDescent:
    """ASGO: `one_sided` at the RMS of an Adam update.

        V <- b2 V + (1 - b2) G G^T / n;   D = V^-1/2 m          m: average of G, by b1
        w <- (1 - lr weight_decay) w - lr 0.2 D / rms(D)

    betas, the length and new roots in every step are those of the reference implementation.
    Source: An et al. 2025, arXiv:2503.20762.
    """
    memory = Memory(betas[1], unbiased=False)
    metric = Kronecker(
        DenseIfShortest(), memory=memory, damping=damping, every=every, max_dim=max_dim
    )
    return preconditioned(model, lr, metric, betas[0], options, (MatchRMS(0.2),), BETAS)
