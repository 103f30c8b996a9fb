"""No learning rate: step lengths computed from gradients (AGD)."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

from torch import nn

from modula.duality import (
    Average,
    Declaration,
    Setting,
    Unit,
)
from modula.network.geometry import Geometry
from modula.norms.base import Norm
from modula.norms.operator import Rows
from modula.norms.vector import L2, RMS
from modula.optimizer.automatic import Automatic
from modula.optimizer.param_groups import Group, declarations_of
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import weights_of
from modula.recipes.options import checked


@checked()
def automatic(
    model: nn.Module,
    lr: Automatic = Automatic(),
    *,
    momentum: float = 0.95,
    radius: float = 8.0,
    **options: Any,
) -> SteepestDescent:
    """No learning rate: the network's geometry, AGD's step length, weights in balls of their norm.

        N = sum_l t_l ||m_l||_*;   eta = log((1 + sqrt(1 + 4 N)) / 2)
        w_l <- (1 - eta t_l / radius) w_l - eta t_l D_l,    D_l of beta m + (1 - beta) g

    Let a scheduler lower param_groups' "lr" (1 at first) to 0 over the run.  On a model without
    masses every budget is 1 / number of weights, as in AGD.
    Source: the step length of arXiv:2304.05187 on momenta, the balls of arXiv:2502.07529.
    """
    if not radius > 0:
        raise ValueError(f"radius must be positive; got {radius}")
    declarations = declarations_of(model, Average(momentum, nesterov=True), Unit(), 1 / radius)
    if all(declaration.budget == 1 for declaration in declarations.values()):
        share = 1 / max(1, len(declarations))
        declarations = {n: replace(d, budget=share) for n, d in declarations.items()}
    return SteepestDescent(model, lr, groups=[Group(declarations)], **options)


@checked()
def agd(model: nn.Module, lr: Automatic = Automatic(), **options: Any) -> SteepestDescent:
    """Automatic gradient descent as published: full batches, no momentum, Frobenius lengths.

        G = (1/L) sum_l sqrt(m_l / n_l) ||g_l||_F;   eta = log((1 + sqrt(1 + 4 G)) / 2)
        w_l <- w_l - (eta / L) sqrt(m_l / n_l) g_l / ||g_l||_F

    L: number of weights.  Convolutions go tap by tap, an embedding is read as (dim, vocabulary).
    Source: Bernstein et al. 2023, arXiv:2304.05187.
    """
    weights = weights_of(model)
    declarations = {
        name: Declaration(
            Setting(_agd_norm(geometry, tuple(weight.shape))),
            geometry.role,
            budget=1 / len(weights),
        )
        for name, (geometry, weight) in weights.items()
    }
    return SteepestDescent(model, lr, groups=[Group(declarations)], **options)


def _agd_norm(geometry: Geometry, shape: tuple[int, ...]) -> Norm:
    if len(shape) < 2:
        return RMS(len(shape))
    fan_out, fan_in = shape[:2]
    if isinstance(geometry.norm, Rows):
        fan_out, fan_in = fan_in, fan_out
    frobenius = sqrt(fan_in / fan_out) * L2(ndim=2)
    if len(shape) == 2:
        return frobenius
    taps = [f"k{i}" for i in range(len(shape) - 2)]
    size = 1
    for extent in shape[2:]:
        size *= extent
    return sqrt(size) * frobenius.on(f"o i {' '.join(taps)} -> {' '.join(taps)} o i")
