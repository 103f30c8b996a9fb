"""Scion: every weight in the norm of its role, kept inside a ball of that norm."""

from __future__ import annotations

from math import inf
from typing import Any

from torch import nn

from modula.duality import (
    Average,
    Declaration,
    Setting,
)
from modula.norms.vector import Max
from modula.optimizer.automatic import Automatic
from modula.optimizer.param_groups import Group
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import weights_of
from modula.recipes.options import checked


@checked()
def scion(
    model: nn.Module,
    lr: float = 2**-6,
    *,
    momentum: float = 0.9,
    radius: float = 8.0,
    head_radius: float = 64.0,
    constrained: bool = True,
    **options: Any,
) -> SteepestDescent:
    """Scion: every weight in the norm of its role, kept inside a ball of that norm.

        w <- (1 - lr) w - lr radius D(m)      constrained: {norm <= radius} is never left
        w <- w - lr radius D(m)               unconstrained

    Hidden matrices RMSToRMS, embeddings by row, the head by the largest entry times its fan-in,
    biases RMS.  Published radii go from 8 (vision) to 50 and 3000 (a tied language model).

    Raises ValueError for radii that are none, and for an lr above 1 that would leave the balls.
    Source: Pethick et al. 2025, arXiv:2502.07529.
    """
    if not (0 < radius < inf and 0 < head_radius < inf):
        raise ValueError(f"radii must be positive and finite; got {radius} and {head_radius}")
    if constrained and not isinstance(lr, Automatic) and lr > 1:
        raise ValueError(
            f"lr={lr} would leave the balls, as 1 - lr is negative: it is the share of a radius "
            f"that a step goes, 1 or less; constrained=False has no balls"
        )
    declarations: dict[str, Declaration] = {}
    for name, (geometry, weight) in weights_of(model).items():
        is_head = geometry.role in ("head", "tied")
        unit = float(weight.shape[-1]) * Max(weight.ndim) if is_head else geometry.norm
        norm = (1 / (head_radius if is_head else radius)) * unit
        setting = Setting(norm, geometry.manifold, momentum=Average(momentum))
        declarations[name] = Declaration(setting, geometry.role, 1.0, 1.0 if constrained else 0.0)
    return SteepestDescent(model, lr, groups=[Group(declarations)], **options)
