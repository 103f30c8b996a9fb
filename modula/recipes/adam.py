"""Adam and its kin, entry by entry: AdamW, AdamS, Adam, RMSProp, AdaGrad, root-free RMSProp."""

from __future__ import annotations

from typing import Any

from torch import nn

from modula.duality import (
    Behind,
    BehindMetric,
    Coupled,
    Decay,
    HeavyBall,
    NoMomentum,
    Sharp,
)
from modula.norms.metrics.base import Memory
from modula.norms.metrics.diagonal import Diagonal
from modula.norms.vector import L2
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import BETAS, Correction, adam_options, entrywise
from modula.recipes.options import checked


@checked()
def adamw(
    model: nn.Module,
    lr: float = 1e-3,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float | Decay = 0.01,
    corrected: Correction | None = None,
    **options: Any,
) -> SteepestDescent:
    """AdamW: Frobenius under a diagonal metric to the power 1/2; equal to torch.optim.AdamW.

        w <- (1 - lr weight_decay) w - lr m_hat / (sqrt(v_hat) + eps)

    weight_decay  modula.duality.Scheduled(0.01) makes it AdamS, whose decay is divided by the
                  root mean square of the whole network's gradients
    corrected     see `bias_corrected`

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """
    group = entrywise(
        model,
        L2,
        weight_decay=weight_decay,
        corrected=corrected,
        names=BETAS,
        **adam_options(betas, eps),
    )
    return SteepestDescent(model, lr, groups=[group], **options)


@checked()
def adam(
    model: nn.Module,
    lr: float = 1e-3,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float | Decay = 0.0,
    **options: Any,
) -> SteepestDescent:
    """Adam with the decay in the gradient; equal to torch.optim.Adam, whose defaults these are.

        g <- g + weight_decay w;   w <- w - lr m_hat / (sqrt(v_hat) + eps)

    Source: Kingma and Ba 2015, arXiv:1412.6980.
    """
    group = entrywise(
        model,
        L2,
        weight_decay=_at(Coupled, weight_decay),
        names=BETAS,
        **adam_options(betas, eps),
    )
    return SteepestDescent(model, lr, groups=[group], **options)


@checked()
def rmsprop(
    model: nn.Module,
    lr: float = 0.01,
    *,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    weight_decay: float | Decay = 0.0,
    **options: Any,
) -> SteepestDescent:
    """RMSProp, not centred; equal to torch.optim.RMSprop, whose defaults these are.

        g <- g + weight_decay w;   v <- alpha v + (1 - alpha) g^2
        b <- momentum b + g / (sqrt(v) + eps);   w <- w - lr b

    Source: Tieleman and Hinton 2012, Neural Networks for Machine Learning, lecture 6.5.
    """
    group = entrywise(
        model,
        L2,
        Behind(HeavyBall(momentum)),
        _at(Coupled, weight_decay),
        potential=Sharp(),
        metric=Diagonal(Memory(alpha, unbiased=False), floor=eps),
        names={"alpha": ("beta",)},
    )
    return SteepestDescent(model, lr, groups=[group], **options)


@checked()
def adagrad(
    model: nn.Module,
    lr: float = 0.01,
    *,
    eps: float = 1e-10,
    first: float = 0.0,
    weight_decay: float | Decay = 0.0,
    **options: Any,
) -> SteepestDescent:
    """AdaGrad: squares are added up; equal to torch.optim.Adagrad, whose defaults these are.

        g <- g + weight_decay w;   v <- v + g^2;   w <- w - lr g / (sqrt(v) + eps)

    first   v before the first step
    Source: Duchi, Hazan, Singer 2011, JMLR 12.
    """
    group = entrywise(
        model,
        L2,
        NoMomentum(),
        _at(Coupled, weight_decay),
        potential=Sharp(),
        metric=Diagonal(Memory(1.0, first=first), floor=eps),
    )
    return SteepestDescent(model, lr, groups=[group], **options)


@checked()
def root_free(
    model: nn.Module,
    lr: float = 1e-3,
    *,
    batch: int = 1,
    momentum: float = 0.9,
    beta: float = 0.99,
    damping: float = 1e-3,
    weight_decay: float | Decay = 0.0,
    **options: Any,
) -> SteepestDescent:
    """RMSProp without the root: the natural gradient under a diagonal Fisher.

        v <- beta v + (1 - beta) g^2, at first 1 / batch
        b <- momentum b + g / (batch v + damping) + weight_decay w;   w <- w - lr b

    batch   examples that the loss is the mean of: batch v does not depend on it

    lr has the unit of the loss, so that a scaled loss needs another.  The paper searches lr in
    5e-5 to 5e-4, damping in 5e-5 to 1e-3, 1 - beta in 5e-3 to 0.1, momentum in 0.5 to 0.99.
    Source: Lin et al. 2024, arXiv:2402.03496.
    """
    if not batch >= 1:
        raise ValueError(f"batch is a number of examples, at least 1; got {batch}")
    memory = Memory(beta, unbiased=False, first=1 / batch)
    group = entrywise(
        model,
        L2,
        Behind(HeavyBall(momentum)),
        _at(BehindMetric, weight_decay),
        potential=Sharp(),
        metric=Diagonal(memory, floor=damping, power=1.0, batch=batch),
        names={"damping": ("eps",)},
    )
    return SteepestDescent(model, lr, groups=[group], **options)


def _at(place: type[Decay], weight_decay: float | Decay) -> Decay:
    """A number decays at this place; a Decay says its own."""
    return weight_decay if isinstance(weight_decay, Decay) else place(weight_decay)
