"""Recipes that learn a distribution over weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from modula.duality import Sharp, Unbiased
from modula.norms.metrics.posterior import Posterior
from modula.norms.vector import L2
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import BETAS, entrywise
from modula.recipes.options import checked


@checked()
def ivon(
    model: nn.Module,
    lr: float = 0.1,
    *,
    ess: float = 1e5,
    prior: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99999),
    first: float = 1.0,
    clip: float = float("inf"),
    **options: Any,
) -> SteepestDescent:
    """IVON: the mean and the diagonal precision of a Gaussian posterior over all weights.

        f = g (x - w) ess (h + prior)
        h <- b2 h + (1 - b2) f + (1 - b2)^2 (h - f)^2 / (2 (h + prior))
        w <- w - lr (first + prior) (m_hat + prior w) / (h + prior)

    g is taken at x ~ N(w, 1 / (ess (h + prior))): run forward and backward inside
    `with optimizer.perturbed():`, as `modula train` does; without it h stays as it is.  Enter it
    S times before a step, each with 1 / S of the loss, and f and g are means over S samples.  The
    same context draws networks for predictions.

    ess    examples in the training set; the reference asks for it, and ours starts at 1e5; other
           defaults are the reference's
    prior  precision of the prior over ess, which is damping and weight decay at once
    Source: Shen et al. 2024, arXiv:2402.17641.
    """
    metric = Posterior(ess, prior, betas[1], first, clip)
    group = entrywise(model, L2, Unbiased(betas[0]), 0.0, Sharp(), metric, names=BETAS)
    return SteepestDescent(model, lr, groups=[group], **options)
