"""Recipes under a Kronecker metric of the gradients: the Shampoo family."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from modula.duality import Average, Momentum, NoMomentum, Setting, Sharp
from modula.geometry import Geometry
from modula.norms.kronecker import KL, Kronecker
from modula.norms.metric import Memory, Metric
from modula.norms.vector import L2
from modula.optimizer import SteepestDescent
from modula.recipes.common import matrices_and_others


def preconditioned(
    model: nn.Module,
    lr: float,
    metric: Metric,
    momentum: float | Momentum,
    options: dict[str, Any],
) -> SteepestDescent:
    """Hidden matrices along S^-p m, whatever the metric; all other weights by AdamW.

    momentum  of an average of the gradients, unless it says of what
    options   those of `matrices_and_others` are taken out; SteepestDescent gets the rest
    """
    ours = ("weight_decay", "adamw_lr", "adamw_betas", "adamw_weight_decay")
    own = {key: options.pop(key) for key in ours if key in options}
    if not isinstance(momentum, Momentum):
        momentum = Average(momentum) if momentum else NoMomentum()

    def setting(geometry: Geometry, weight: Tensor) -> Setting:
        return Setting(
            L2(weight.ndim), geometry.manifold, metric, potential=Sharp(), momentum=momentum
        )

    groups = matrices_and_others(model, lr, setting, **own)
    return SteepestDescent(model, lr, groups=groups, **options)


def kl_shampoo(
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
    """KL-Shampoo on hidden matrices, AdamW on all other weights.

        S_1 <- beta S_1 + (1 - beta) G S_2^-1 G^T / n,   S_2 <- ... G^T S_1^-1 G / m
        w <- (1 - lr weight_decay) w - lr S_1^-1/2 m S_2^-1/2          m: average of G

    The factors' sizes are kept equal and their roots renewed every `every` steps, the weights of a
    network in turn.  A direction's entries have an RMS near sqrt((1 - momentum)/(1 + momentum)).

    Source: Lin et al. 2025, arXiv:2509.03378.
    """
    metric = Kronecker(
        fit=KL(), memory=Memory(beta, unbiased=False), damping=damping, every=every, max_dim=max_dim
    )
    return preconditioned(model, lr, metric, momentum, options)
