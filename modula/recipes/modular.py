"""Modular duality and clipping: the geometry that the network itself declares."""

from __future__ import annotations

from typing import Any

from torch import nn

from modula.duality import (
    Clip,
    Decay,
    Potential,
    ShortStep,
    Unit,
)
from modula.network.algebra import budgets_of
from modula.optimizer.automatic import Automatic
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import average_of
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
        momentum=average_of(momentum, nesterov),
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
    average = average_of(momentum)
    if radius is None:
        return SteepestDescent(
            model, lr, momentum=average, potential=Clip(rho), weight_decay=weight_decay, **options
        )
    if weight_decay:
        raise ValueError(f"radius={radius} is a weight decay of {1 / radius}: give one of the two")
    rate = 0.0 if isinstance(lr, Automatic) else lr  # which is refused beside rho, below
    largest = rate * rho * max(budgets_of(model).values(), default=1.0)
    if not radius > 0 or largest > radius:
        raise ValueError(
            f"radius={radius} must be positive, and no less than lr * rho * the largest budget, "
            f"which is {largest:.4g}: lower lr or rho"
        )
    return SteepestDescent(
        model, lr, momentum=average, potential=ShortStep(rho), weight_decay=1 / radius, **options
    )
