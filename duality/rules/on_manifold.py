"""Rules for weights on a manifold whose steepest tangent has a closed form."""

from functools import cache
from typing import cast

import torch
from torch import Tensor

from modula.duality.program.cost import cost_of_projections, cost_of_tangents
from modula.duality.program.line import Line, line
from modula.duality.rules.retraction import (
    point_dims,
    polar_retraction,
    retraction,
    scaled_polar_retraction,
)
from modula.duality.rules.solvers.general import NOISE
from modula.duality.rules.unconstrained import trailing_size
from modula.duality.setting.derive import Derived, Setting, derives, may_approximate
from modula.kernels.elementwise.length import normalise
from modula.kernels.op import Op, Shape
from modula.kernels.tangent.stiefel import stiefel_map
from modula.kernels.tangent.unit_condition import unit_condition_map
from modula.manifolds.base import Manifold
from modula.manifolds.numerics import symmetric
from modula.manifolds.spd import SPD
from modula.manifolds.stiefel import Stiefel
from modula.manifolds.unit_condition_number import UnitConditionNumber
from modula.norms.base import Norm
from modula.norms.singular_values import SingularValueNorm
from modula.norms.spectral import Nuclear, Spectral
from modula.norms.vector import L1, EuclideanLength, Max


@cache
def to_tangent_op(manifold: Manifold, ndim: int) -> Op:
    """The part of the query whose negative, the step, is tangent; rounding noise becomes zero."""
    dims = point_dims(manifold, ndim)

    def to_tangent(weight: Tensor, query: Tensor) -> Tensor:
        tangent = -manifold.to_tangent(weight, -query)
        floor = NOISE * torch.finfo(query.dtype).eps * _largest(query, dims)
        return torch.where(_largest(tangent, dims) > floor, tangent, 0.0)

    return Op(f"to_tangent[{manifold}]", to_tangent, cost_of_tangents(manifold))


def _largest(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.abs().amax(dims, keepdim=True)


def tangent_line(manifold: Manifold, shape: Shape) -> Line:
    """tangent = the tangent part of the query"""
    return line("tangent", to_tangent_op(manifold, len(shape)), "weight", "query")


@derives(EuclideanLength, Manifold)
def riemannian_gradient(setting: Setting, shape: Shape) -> Derived:
    """Riemannian gradient descent, normalised: exact, as <g, t> = <tangent part of g, t>."""
    norm, manifold = cast(EuclideanLength, setting.norm), setting.manifold
    return Derived(
        (tangent_line(manifold, shape), line("direction", normalise, "tangent", ndim=norm.ndim)),
        scale=1 / norm.factor(trailing_size(norm, shape)),
        after=retraction(manifold, len(shape)),
    )


@derives(Spectral, Stiefel, when=may_approximate)
def manifold_muon(setting: Setting, shape: Shape) -> Derived:
    """Manifold Muon: the steepest tangent of the Stiefel manifold, then its polar retraction.

    Square weights have a closed form; others are solved in two parts, without iterating.
    Source: Bernstein 2025, Modular Manifolds (thinkingmachines.ai).
    """
    norm, manifold = cast(Spectral, setting.norm), cast(Stiefel, setting.manifold)
    return Derived(
        (line("direction", stiefel_map, "weight", "query"),),
        scale=norm.unit_radius(shape),
        after=polar_retraction(manifold),
    )


@derives(Spectral, UnitConditionNumber, when=may_approximate)
def unit_condition_muon(setting: Setting, shape: Shape) -> Derived:
    """Manifold Muon, and growth: the steepest tangent of all multiples of the Stiefel manifold.

    In closed form from manifold Muon's own direction, whose gap it inherits.
    """
    norm = cast(Spectral, setting.norm)
    return Derived(
        (line("direction", unit_condition_map, "weight", "query"),),
        scale=norm.unit_radius(shape),
        after=scaled_polar_retraction(),
    )


@cache
def _symmetric_map(norm: Norm) -> Op:
    def steepest(tangent: Tensor) -> Tensor:
        """(D + D^T) / 2 for D = duality_map(tangent), which need not be symmetric itself."""
        return symmetric(norm.duality_map(tangent))

    return Op(f"symmetric_duality_map[{norm}]", steepest, cost_of_projections(norm))


def _measures_matrices(setting: Setting, shape: Shape) -> bool:
    return setting.norm.ndim == 2


@derives(Spectral, SPD)
@derives(Nuclear, SPD)
@derives(SingularValueNorm, SPD)
@derives(L1, SPD, when=_measures_matrices)
@derives(Max, SPD, when=_measures_matrices)
def symmetric_duality_map(setting: Setting, shape: Shape) -> Derived:
    """Norms that a transpose leaves alone: the duality map of the symmetric part of the gradient.

    Exact: for G = G^T both D and D^T are steepest, hence so is their mean, which is no longer.
    """
    return Derived(
        (
            tangent_line(setting.manifold, shape),
            line("direction", _symmetric_map(setting.norm), "tangent"),
        ),
        after=retraction(setting.manifold, len(shape)),
    )
