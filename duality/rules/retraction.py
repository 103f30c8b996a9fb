"""Retractions: lines that bring a weight back to its manifold after the step."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

from modula.duality.program.cost import cost_of_projections
from modula.duality.program.line import Line, line
from modula.duality.program.names import POINT
from modula.duality.rules.solvers.projections import onto
from modula.kernels.op import Cost, Op, Shape, elementwise_cost
from modula.kernels.spectral.near_polar import near_polar
from modula.manifolds.base import Manifold
from modula.manifolds.oblique import Oblique
from modula.manifolds.spd import SPD
from modula.manifolds.stiefel import Stiefel
from modula.manifolds.unit_condition_number import UnitConditionNumber

Retract = Callable[[Tensor, Tensor], Tensor]  # from where the weight was, and where it is


def point_dims(manifold: Manifold, ndim: int) -> tuple[int, ...]:
    """The dims of one point of the manifold in a weight of so many dims."""
    if isinstance(manifold, Oblique):
        return (-1,) if manifold.axis == "rows" else (-2,)
    return tuple(range(-(manifold.ndim or ndim), 0))


def retraction(manifold: Manifold, ndim: int) -> tuple[Line, ...]:
    """Lines that bring a stepped weight back to the manifold, by its own retraction.

    SPD's follows the affine-invariant metric: of a step as long as a norm allows, which knows no
    W^-1, its V W^-1 V / 2 would throw a small eigenvalue far away.  There the projection is used.
    """
    return _back(_retraction_op(manifold, ndim))


@cache
def _retraction_op(manifold: Manifold, ndim: int) -> Op:
    dims = point_dims(manifold, ndim)
    if isinstance(manifold, SPD) or type(manifold).retract is Manifold.retract:
        project = onto(manifold)
        return _op(manifold, dims, lambda point, stepped: project(stepped), 1)
    return _op(manifold, dims, lambda point, stepped: manifold.retract(point, stepped - point), 2)


def _op(manifold: Manifold, dims: tuple[int, ...], retract: Retract, projections: int) -> Op:
    cost = cost_of_projections(manifold, projections)
    return Op(f"retract[{manifold}]", unless_still(retract, dims), cost)


def unless_still(retract: Retract, dims: tuple[int, ...]) -> Retract:
    """The retraction, for the points that a step has moved; the others stay to the bit.

    A retraction is exact to rounding, which would add up where no gradient corrects it.

    dims  of one point
    """

    def back(point: Tensor, stepped: Tensor) -> Tensor:
        moved = (stepped != point).any(dims, keepdim=True)
        if moved.device.type == "cpu" and not moved.any():  # a look that nobody waits for
            return stepped
        return retract(point, stepped).where(moved, point)

    return back


def polar_retraction(manifold: Stiefel) -> tuple[Line, ...]:
    """radius * polar(W), the nearest point of the Stiefel manifold, for W close to it."""
    return _back(_polar_op(manifold.radius))


@cache
def _polar_op(radius: float) -> Op:
    def retract(point: Tensor, stepped: Tensor) -> Tensor:
        return near_polar(stepped, scale=radius)

    return Op(f"retract[{Stiefel(radius)}]", unless_still(retract, (-2, -1)), near_polar.cost)


def scaled_polar_retraction() -> tuple[Line, ...]:
    """mean(sigma) * polar(W), the nearest point with equal singular values."""
    return _back(_scaled_polar_op())


@cache
def _scaled_polar_op() -> Op:
    def retract(point: Tensor, stepped: Tensor) -> Tensor:
        # Twice: where a step is as long as the weight, its singular values are far apart.
        q = near_polar(near_polar(stepped))
        return (q * stepped).sum((-2, -1), keepdim=True) / stepped.shape[-1] * q

    def cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
        one = near_polar.cost(shape, itemsize)
        return one + one + elementwise_cost(3, 4)(shape, itemsize)

    return Op(f"retract[{UnitConditionNumber()}]", unless_still(retract, (-2, -1)), cost)


def _back(op: Op) -> tuple[Line, ...]:
    return (line("weight", op, POINT, "weight"),)
