"""Recipes that measure every weight entry by entry: SGD, sign descent, Lion, AdamW."""

from __future__ import annotations

from typing import Any

from torch import nn

from modula.duality import Average, Decay, HeavyBall, NoMomentum, QueryStore, Sharp
from modula.norms.vector import L2, Max
from modula.optimizer import SteepestDescent
from modula.recipes.common import adam, entrywise


def sgd(
    model: nn.Module,
    lr: float = 0.1,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float | Decay = 0.0,
    **options: Any,
) -> SteepestDescent:
    """Gradient descent: Frobenius, as long as the gradient.

        m <- momentum m + g;   w <- (1 - lr weight_decay) w - lr m

    The decay is decoupled, where torch.optim.SGD adds it to the gradient.
    """
    ball = HeavyBall(momentum, nesterov) if momentum else NoMomentum()
    group = entrywise(model, L2, ball, weight_decay, potential=Sharp())
    return SteepestDescent(model, lr, groups=[group], **options)


def sign(
    model: nn.Module,
    lr: float = 1e-3,
    *,
    momentum: float = 0.9,
    weight_decay: float | Decay = 0.0,
    **options: Any,
) -> SteepestDescent:
    """Sign descent (Signum): the largest entry, at unit length.

        m <- momentum m + (1 - momentum) g;   w <- (1 - lr weight_decay) w - lr sign(m)

    Source: Bernstein et al. 2018, arXiv:1802.04434.
    """
    average = Average(momentum) if momentum else NoMomentum()
    group = entrywise(model, Max, average, weight_decay)
    return SteepestDescent(model, lr, groups=[group], **options)


def lion(
    model: nn.Module,
    lr: float = 1e-4,
    *,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float | Decay = 0.0,
    **options: Any,
) -> SteepestDescent:
    """Lion: sign descent that asks one average and stores another.

        w <- (1 - lr weight_decay) w - lr sign(b1 m + (1 - b1) g);   m <- b2 m + (1 - b2) g

    Source: Chen et al. 2023, arXiv:2302.06675.
    """
    group = entrywise(model, Max, QueryStore(*betas), weight_decay)
    return SteepestDescent(model, lr, groups=[group], **options)


def adamw(
    model: nn.Module,
    lr: float = 1e-3,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float | Decay = 0.01,
    **options: Any,
) -> SteepestDescent:
    """AdamW: Frobenius under a diagonal metric to the power 1/2; equal to torch.optim.AdamW.

        w <- (1 - lr weight_decay) w - lr m_hat / (sqrt(v_hat) + eps)

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """
    group = entrywise(model, L2, weight_decay=weight_decay, **adam(betas, eps))
    return SteepestDescent(model, lr, groups=[group], **options)
