"""Newton-Muon: Muon under a metric of the layer inputs, as a chain and as a sandwich."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from modula.duality import Average, Between, Setting, Unit
from modula.network.geometry import Geometry
from modula.norms.metrics.base import First, Memory
from modula.norms.metrics.layer import (
    LayerMoments,
    Relative,
)
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import matrices_and_others
from modula.recipes.kfac import LayerMetric, in_layers
from modula.recipes.options import checked


def _of_inputs(beta: float, damping: float, every: int, max_dim: int, square: bool) -> LayerMoments:
    return LayerMoments(
        outputs="",
        memory=Memory(beta),
        damping=Relative(damping),
        every=every,
        sample_every=every,
        square=square,
        max_dim=max_dim,
    )


@checked(matrices_and_others)
def newton_muon(
    model: nn.Module,
    lr: float = 0.02,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    beta: float = 0.95,
    damping: float = 0.2,
    every: int = 32,
    max_dim: int = 2048,
    square: bool = True,
    **options: Any,
) -> SteepestDescent:
    """Newton-Muon on hidden matrices: Muon of preconditioned gradients; AdamW on other weights.

        K: average of E[x x^T], looked at every `every` steps
        h = g (K + damping tr(K)/d)^-1;   m <- momentum m + (1 - momentum) h
        w <- (1 - lr weight_decay) w - lr sqrt(out/in) polar(m)

    A chain: no steepest descent in any norm.  See `newton_muon_sandwich` for the one that is.

    square  inputs 2 to 8 times as wide as the outputs meet square diagonal blocks of K; False keeps
            K whole

    Defaults are the reference's, which adds 1e-8 to the damping and begins with 1e-3 I.
    Source: Du and Su 2026, arXiv:2604.01472.
    """
    metric = _of_inputs(beta, damping, every, max_dim, square)
    between = Between(Average(momentum, nesterov))

    def setting(geometry: Geometry, weight: Tensor, metric: LayerMetric) -> Setting:
        return Setting(geometry.norm, geometry.manifold, First(metric), momentum=between)

    return in_layers(model, lr, metric, setting, options)


@checked(matrices_and_others)
def newton_muon_sandwich(
    model: nn.Module,
    lr: float = 0.02,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    beta: float = 0.95,
    damping: float = 0.2,
    every: int = 32,
    max_dim: int = 2048,
    square: bool = True,
    **options: Any,
) -> SteepestDescent:
    """Muon in the coordinates of a layer's inputs, on hidden matrices; AdamW on other weights.

        K: average of E[x x^T], looked at every `every` steps
        w <- (1 - lr weight_decay) w - lr sqrt(out/in) polar(m K^-1/2) K^-1/2

    Steepest descent in the norm ||W K^1/2||, how far the outputs move on the inputs there are:
    it descends for any K and does not depend on how the inputs are measured.  damping and square
    are those of `newton_muon`.

    Source: Newton-Muon's metric, in the sandwich of Carlson et al. 2015, arXiv:1511.02247.
    """
    metric = _of_inputs(beta, damping, every, max_dim, square)

    def setting(geometry: Geometry, weight: Tensor, metric: LayerMetric) -> Setting:
        average = Average(momentum, nesterov)
        return Setting(geometry.norm, geometry.manifold, metric, Unit(), average)

    return in_layers(model, lr, metric, setting, options)
