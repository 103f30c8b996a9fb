"""Recipes in the geometry that the network itself declares: modular duality, clipping, AGD."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

from torch import nn

from modula.duality import (
    Average,
    Clip,
    Decay,
    Declaration,
    NoMomentum,
    Potential,
    Setting,
    ShortStep,
    Unit,
)
from modula.network.geometry import Geometry
from modula.norms.base import Norm
from modula.norms.operator import Rows
from modula.norms.vector import L2, RMS
from modula.optimizer.automatic import Automatic
from modula.optimizer.param_groups import Group, budgets_of, declarations_of
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import weights_of
from modula.recipes.options import checked


@checked()
def modular(
    model: nn.Module,
    lr: float | Automatic = 0.1,
    *,
    momentum: float = 0.95,
    nesterov: bool = False,
    weight_decay: float | Decay = 0.0,
    potential: Potential = Unit(),
    **options: Any,
) -> SteepestDescent:
    """The network's own declared geometry, each weight at its modular budget.

        w <- (1 - lr t weight_decay) w - lr t D(m),    t = budget

    Source: Bernstein and Newhouse 2024, arXiv:2410.21265.
    """
    return SteepestDescent(
        model,
        lr,
        momentum=Average(momentum, nesterov) if momentum else NoMomentum(),
        weight_decay=weight_decay,
        potential=potential,
        **options,
    )


@checked(without=("potential",))
def clipped(
    model: nn.Module,
    lr: float = 0.1,
    *,
    rho: float = 1.0,
    momentum: float = 0.95,
    weight_decay: float | Decay = 0.0,
    radius: float | None = None,
    **options: Any,
) -> SteepestDescent:
    """Generalised gradient norm clipping: steepest descent near a minimum, Muon-like far from it.

        s = min(rho, sum_l t_l ||m_l||_*);   w_l <- (1 - lr s t_l weight_decay) w_l - lr s t_l D_l

    radius  of the ball around zero in which each weight stays, in its norm; 1 / weight_decay.
            The step is then the short one of a conditional gradient method, which comes to rest
            on the rim of a ball as well:  s = min(rho, sum_l t_l <m_l, D_l + w_l / radius> / 4)

    Raises ValueError for a radius with a weight decay of its own, or so small that the first step
    could leave the ball: lr rho t_l <= radius is what keeps it inside.
    Source: Pethick et al. 2025, arXiv:2506.01913.
    """
    average = Average(momentum) if momentum else NoMomentum()
    if radius is None:
        return SteepestDescent(
            model, lr, momentum=average, potential=Clip(rho), weight_decay=weight_decay, **options
        )
    if weight_decay:
        raise ValueError(f"radius={radius} is a weight decay of {1 / radius}: give one of the two")
    largest = lr * rho * max(budgets_of(model).values(), default=1.0)
    if not radius > 0 or largest > radius:
        raise ValueError(
            f"radius={radius} must be positive, and no less than lr * rho * the largest budget, "
            f"which is {largest:.4g}: lower lr or rho"
        )
    return SteepestDescent(
        model, lr, momentum=average, potential=ShortStep(rho), weight_decay=1 / radius, **options
    )


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
