"""Recipes whose hidden matrices live on a manifold: a step moves along it and never leaves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from typing import Any

from torch import nn

from modula.manifolds.base import Manifold
from modula.manifolds.oblique import Oblique
from modula.manifolds.spectral_sphere import SpectralSphere
from modula.manifolds.sphere import Sphere
from modula.manifolds.stiefel import Stiefel
from modula.manifolds.transposed import Transposed
from modula.manifolds.unit_condition_number import UnitConditionNumber
from modula.network.geometry import Geometry
from modula.norms.operator import RMSToRMS, Rows
from modula.norms.vector import L2
from modula.optimizer.param_groups import Group, declarations_of
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import average_of, weights_of
from modula.recipes.options import checked


def _constrained(
    model: nn.Module,
    lr: float,
    geometry_of: Callable[[int, int], Geometry],
    momentum: float,
    options: dict[str, Any],
) -> SteepestDescent:
    """Hidden matrices under geometry_of(fan_out, fan_in), all other weights under their own."""
    declarations = declarations_of(model, average_of(momentum))
    for name, (geometry, weight) in weights_of(model).items():
        if geometry.role == "hidden" and weight.ndim == 2:
            chosen = geometry_of(weight.shape[0], weight.shape[1])
            setting = replace(
                declarations[name].setting, norm=chosen.norm, manifold=chosen.manifold
            )
            declarations[name] = replace(declarations[name], setting=setting)
    return SteepestDescent(model, lr, groups=[Group(declarations)], **options)


def _tall(manifold: Manifold, fan_out: int, fan_in: int) -> Manifold:
    return manifold if fan_out >= fan_in else Transposed(manifold)


@checked()
def hypersphere(
    model: nn.Module, lr: float = 0.02, *, momentum: float = 0.95, **options: Any
) -> SteepestDescent:
    """Hidden matrices of constant length, ||W||_F = sqrt(fan_out); lr is the angle of a step.

        t <- m - W <W, m> / <W, W>;   W <- project(W - lr sqrt(fan_out) t / ||t||_F)

    Source: Bernstein 2025, Modular Manifolds (thinkingmachines.ai).
    """

    def geometry(fan_out: int, fan_in: int) -> Geometry:
        radius = sqrt(fan_out)
        return Geometry((1 / radius) * L2(ndim=2), Sphere(radius, ndim=2))

    return _constrained(model, lr, geometry, momentum, options)


@checked()
def oblique(
    model: nn.Module, lr: float = 0.02, *, momentum: float = 0.95, **options: Any
) -> SteepestDescent:
    """Hidden matrices with unit rows; lr is the angle by which each row turns.

    Source: Absil and Gallivan 2006, doi:10.1109/ICASSP.2006.1661433, for the manifold.
    """
    return _constrained(
        model, lr, lambda m, n: Geometry(Rows(L2()), Oblique("rows")), momentum, options
    )


@checked()
def manifold_muon(
    model: nn.Module, lr: float = 0.02, *, momentum: float = 0.95, **options: Any
) -> SteepestDescent:
    """Hidden matrices with orthonormal columns (rows, if wide), times sqrt(fan_out / fan_in).

        D = argmax <m, D> over ||D|| <= 1, W^T D + D^T W = 0;   W <- polar(W - lr D)

    Every such matrix has the RMSToRMS norm one.  D is found without iterating and misses 0.1 to 7 %
    of the descent where the matrix is not square; accuracy=Exact() takes the general solver.
    Source: Bernstein 2025, Modular Manifolds (thinkingmachines.ai).
    """

    def geometry(fan_out: int, fan_in: int) -> Geometry:
        manifold = _tall(Stiefel(sqrt(fan_out / fan_in)), fan_out, fan_in)
        return Geometry(RMSToRMS(), manifold)

    return _constrained(model, lr, geometry, momentum, options)


@checked()
def unit_condition(
    model: nn.Module, lr: float = 0.02, *, momentum: float = 0.95, **options: Any
) -> SteepestDescent:
    """Hidden matrices whose singular values are all equal, their common size free.

    The manifold is declared; the direction comes from the general solver.
    Source: Bernstein 2025, Modular Manifolds (thinkingmachines.ai), for the orthogonal case.
    """

    def geometry(fan_out: int, fan_in: int) -> Geometry:
        return Geometry(RMSToRMS(), _tall(UnitConditionNumber(), fan_out, fan_in))

    return _constrained(model, lr, geometry, momentum, options)


@checked()
def spectral_sphere(
    model: nn.Module,
    lr: float = 0.02,
    *,
    momentum: float = 0.95,
    radius: float = 2.0,
    **options: Any,
) -> SteepestDescent:
    """Hidden matrices whose largest singular value stays radius * sqrt(fan_out / fan_in).

    D = argmax <m, D> over ||D|| <= 1, <u1 v1^T, D> = 0, by a root of one multiplier.
    Source: the spectral sphere optimizer, 2026 (github.com/Unakar/Spectral-Sphere-Optimizer).
    """

    def geometry(fan_out: int, fan_in: int) -> Geometry:
        return Geometry(RMSToRMS(), SpectralSphere(radius * sqrt(fan_out / fan_in)))

    return _constrained(model, lr, geometry, momentum, options)
