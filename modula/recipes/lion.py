"""Sign descent: Signum and Lion."""

from __future__ import annotations

from typing import Any

from torch import nn

from modula.duality import (
    Decay,
    QueryStore,
)
from modula.norms.vector import Max
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import average_of, entrywise
from modula.recipes.options import checked


@checked()
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
    group = entrywise(model, Max, average_of(momentum), weight_decay)
    return SteepestDescent(model, lr, groups=[group], **options)


@checked()
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

    Betas are the reference's, which advises a third to a tenth of AdamW's lr, and as many times
    its decay.
    Source: Chen et al. 2023, arXiv:2302.06675.
    """
    group = entrywise(
        model, Max, QueryStore(*betas), weight_decay, names={"betas": ("momentum", "store")}
    )
    return SteepestDescent(model, lr, groups=[group], **options)
