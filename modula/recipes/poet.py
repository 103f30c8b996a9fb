"""POET: hidden matrices are rotated from both sides and keep their singular values."""

from __future__ import annotations

from typing import Any

from torch import nn

from modula.duality import Declaration, Setting
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.isospectral import Isospectral
from modula.manifolds.rotations import Cayley, Chart, Rotations
from modula.norms.vector import L2
from modula.optimizer.param_groups import Group
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import BETAS, adam_options, weights_of
from modula.recipes.options import checked


@checked()
def poet(
    model: nn.Module,
    lr: float = 5e-4,
    *,
    block: int = 256,
    every: int = 200,
    chart: Chart = Cayley(),
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    adamw_lr: float = 1e-3,
    **options: Any,
) -> SteepestDescent:
    """POET: hidden matrices are rotated, and keep their singular values; Adam drives the angles.

        W = R(X) W0 P(X)^T,   X <- X - lr m_hat / (sqrt(v_hat) + eps) of the gradient in X

    block   rows (columns) that are mixed with each other, drawn at random
    every   steps until W0 <- W, X <- 0; then Adam forgets, and blocks are drawn afresh
    chart   Cayley(), orthogonal to rounding, or CayleyNeumann(4), as published, products alone

    All other weights by AdamW.
    Source: Qiu et al. 2025, arXiv:2506.08001.
    """
    manifold = Isospectral(rotations=Rotations(block, every, chart))
    matrices: dict[str, Declaration] = {}
    others: dict[str, Declaration] = {}
    for name, (geometry, weight) in weights_of(model).items():
        is_matrix = geometry.role == "hidden" and weight.ndim == 2
        setting = Setting(
            L2(3 if is_matrix else weight.ndim),
            manifold if is_matrix else Euclidean(),
            **adam_options(betas, eps),
        )
        (matrices if is_matrix else others)[name] = Declaration(setting, geometry.role)
    groups = [Group(matrices, lr, BETAS), Group(others, adamw_lr, BETAS)]
    return SteepestDescent(model, lr, groups=groups, **options)
