"""Rules for weights on a manifold: tangent directions, and the way back after the step."""

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from modula.duality.program.cost import cost_of_projections, cost_of_tangents
from modula.duality.program.program import POINT, Line, line
from modula.duality.rules.solvers.projections import onto
from modula.duality.rules.unconstrained import trailing_size
from modula.duality.setting.derive import Derived, Setting, derives
from modula.kernels.elementwise.normalise import normalise
from modula.kernels.op import Cost, Op, Shape, elementwise_cost
from modula.kernels.spectral.near_polar import near_polar
from modula.kernels.tangent.stiefel import stiefel_map
from modula.kernels.tangent.unit_condition import unit_condition_map
from modula.manifolds.base import Manifold, symmetric
from modula.manifolds.oblique import Oblique
from modula.manifolds.spd import SPD
from modula.manifolds.stiefel import Stiefel
from modula.manifolds.unit_condition_number import UnitConditionNumber
from modula.norms.base import Norm
from modula.norms.singular_values import SingularValueNorm
from modula.norms.spectral import Nuclear, Spectral
from modula.norms.vector import L1, EuclideanLength, Max

# A tangent part this many roundings long is the rest of a gradient normal to the manifold: no
# direction at all.  A row with one entry, say, is a point of a sphere that has no tangents.
NOISE = 32.0


@cache
def to_tangent_op(manifold: Manifold, ndim: int) -> Op:
    """The part of the query whose negative, the step, is tangent; rounding noise becomes zero."""
    along_one_axis = {"rows": (-1,), "columns": (-2,)}
    axis = manifold.axis if isinstance(manifold, Oblique) else ""
    dims = along_one_axis.get(axis, tuple(range(-ndim, 0)))

    def to_tangent(weight: Tensor, query: Tensor) -> Tensor:
        tangent = -manifold.to_tangent(weight, -query)
        floor = NOISE * torch.finfo(query.dtype).eps * _largest(query, dims)
        return torch.where(_largest(tangent, dims) > floor, tangent, 0.0)

    return Op(f"to_tangent[{manifold}]", to_tangent, cost_of_tangents(manifold))


def _largest(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.abs().amax(dims, keepdim=True)


@cache
def retract_op(manifold: Manifold) -> Op:
    """The manifold's own projection, as an op: after a step it is a retraction of most."""
    return Op(f"project[{manifold}]", onto(manifold), cost_of_projections(manifold))


@cache
def _retract_from_op(manifold: Manifold) -> Op:
    def retract(point: Tensor, stepped: Tensor) -> Tensor:
        """The manifold's own retraction, from where the weight was before the step."""
        return manifold.retract(point, stepped - point)

    return Op(f"retract[{manifold}]", retract, cost_of_projections(manifold, 2))


def way_back(manifold: Manifold) -> tuple[Line, ...]:
    """Lines that bring a stepped weight back to the manifold, by its own retraction.

    SPD's follows the affine-invariant metric: of a step as long as a norm allows, which knows no
    W^-1, its V W^-1 V / 2 would throw a small eigenvalue far away.  There the projection is used.
    """
    if isinstance(manifold, SPD) or type(manifold).retract is Manifold.retract:
        return (line("weight", retract_op(manifold), "weight"),)  # which knows no other point
    return (line("weight", _retract_from_op(manifold), POINT, "weight"),)


@cache
def _scaled_polar_retraction() -> Op:
    def retract(weight: Tensor) -> Tensor:
        """The nearest point with equal singular values: their mean, times the polar factor."""
        # Twice: where a step is as long as the weight, its singular values are far apart.
        q = near_polar(near_polar(weight))
        return (q * weight).sum((-2, -1), keepdim=True) / weight.shape[-1] * q

    def cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
        one = near_polar.cost(shape, itemsize)
        return one + one + elementwise_cost(3, 4)(shape, itemsize)

    return Op(f"retract[{UnitConditionNumber()}]", retract, cost)


@cache
def _polar_retraction(radius: float) -> Op:
    def retract(weight: Tensor) -> Tensor:
        """radius * polar(weight): the nearest point of the Stiefel manifold."""
        return near_polar(weight, scale=radius)

    return Op(f"retract[{Stiefel(radius)}]", retract, near_polar.cost)


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
        after=way_back(manifold),
    )


@derives(Spectral, Stiefel)
def manifold_muon(setting: Setting, shape: Shape) -> Derived:
    """Manifold Muon: the steepest tangent of the Stiefel manifold, then its polar retraction.

    Square weights have a closed form; others are solved in two parts, without iterating.
    Source: Bernstein 2025, Modular Manifolds (thinkingmachines.ai).
    """
    norm, manifold = cast(Spectral, setting.norm), cast(Stiefel, setting.manifold)
    return Derived(
        (line("direction", stiefel_map, "weight", "query"),),
        scale=norm.unit_radius(shape),
        after=(line("weight", _polar_retraction(manifold.radius), "weight"),),
    )


@derives(Spectral, UnitConditionNumber)
def unit_condition_muon(setting: Setting, shape: Shape) -> Derived:
    """Manifold Muon, and growth: the steepest tangent of all multiples of the Stiefel manifold.

    In closed form from manifold Muon's own direction, whose gap it inherits.
    """
    norm = cast(Spectral, setting.norm)
    return Derived(
        (line("direction", unit_condition_map, "weight", "query"),),
        scale=norm.unit_radius(shape),
        after=(line("weight", _scaled_polar_retraction(), "weight"),),
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
        after=way_back(setting.manifold),
    )
