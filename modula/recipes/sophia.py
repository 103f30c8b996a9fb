"""Sophia: Newton's step by a diagonal Gauss-Newton, clipped entry by entry."""

from __future__ import annotations

from typing import Any

from torch import nn

from modula.duality import (
    Average,
    Within,
)
from modula.duality.program.names import SAMPLED_GRADIENT
from modula.norms.metrics.base import Memory
from modula.norms.metrics.diagonal import Diagonal
from modula.norms.vector import L2, Max
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import BETAS, Correction, entrywise
from modula.recipes.options import checked


@checked()
def sophia(
    model: nn.Module,
    lr: float = 1e-3,
    *,
    terms: int = 2048,
    rho: float = 0.04,
    betas: tuple[float, float] = (0.965, 0.99),
    eps: float = 1e-15,
    weight_decay: float = 0.1,
    corrected: Correction | None = None,
    **options: Any,
) -> SteepestDescent:
    """Sophia-G: Newton's step by a diagonal Gauss-Newton, no entry longer than lr.

        m <- b1 m + (1 - b1) g;   h <- b2 h + (1 - b2) terms g_s^2
        w <- (1 - lr weight_decay) w - lr clip(m / (rho h + eps), -1, 1)

    g_s, every 10 steps or so, is the gradient of the same mean loss at labels drawn from the
    network: take it inside `optimizer.sampled()`, as `modula train` does.  Until there is one, the
    step is sign descent.

    terms  of that mean, such as the tokens of a batch: h is then that of one term
    rho    larger cuts off fewer entries; between a tenth and a half of them should be left whole

    corrected  see `bias_corrected`

    Betas and eps are the reference's, whose rho is 0.04 to 0.08, its decay 0.1 to 0.2, its lr
    about AdamW's.
    Source: Liu et al. 2023, arXiv:2305.14342.
    """
    metric = Diagonal(
        Memory(betas[1], unbiased=False),
        floor=eps,
        power=1.0,
        statistic=SAMPLED_GRADIENT,
        batch=rho * terms,
    )
    inside = Within(Max(ndim=0))  # each entry by itself
    group = entrywise(model, L2, Average(betas[0]), weight_decay, inside, metric, corrected, BETAS)
    return SteepestDescent(model, lr, groups=[group], **options)
