"""Retractions: lines that bring a weight back to its manifold after the step."""

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
from modula.manifolds.spd import SPD
from modula.manifolds.stiefel import Stiefel
from modula.manifolds.unit_condition_number import UnitConditionNumber


def retraction(manifold: Manifold) -> tuple[Line, ...]:
    """Lines that bring a stepped weight back to the manifold, by its own retraction.

    SPD's follows the affine-invariant metric: of a step as long as a norm allows, which knows no
    W^-1, its V W^-1 V / 2 would throw a small eigenvalue far away.  There the projection is used.
    """
    if isinstance(manifold, SPD) or type(manifold).retract is Manifold.retract:
        # The projection needs no other point: no copy of the weight before the step is kept.
        return (line("weight", _projection_op(manifold), "weight"),)
    return (line("weight", _retraction_op(manifold), POINT, "weight"),)


@cache
def _projection_op(manifold: Manifold) -> Op:
    return Op(f"project[{manifold}]", onto(manifold), cost_of_projections(manifold))


@cache
def _retraction_op(manifold: Manifold) -> Op:
    def retract(point: Tensor, stepped: Tensor) -> Tensor:
        """The manifold's own retraction, from where the weight was before the step."""
        return manifold.retract(point, stepped - point)

    return Op(f"retract[{manifold}]", retract, cost_of_projections(manifold, 2))


def polar_retraction(manifold: Stiefel) -> tuple[Line, ...]:
    """radius * polar(W), the nearest point of the Stiefel manifold, for W close to it."""
    return (line("weight", _polar_op(manifold.radius), "weight"),)


@cache
def _polar_op(radius: float) -> Op:
    def retract(weight: Tensor) -> Tensor:
        return near_polar(weight, scale=radius)

    return Op(f"retract[{Stiefel(radius)}]", retract, near_polar.cost)


def scaled_polar_retraction() -> tuple[Line, ...]:
    """mean(sigma) * polar(W), the nearest point with equal singular values."""
    return (line("weight", _scaled_polar_op(), "weight"),)


@cache
def _scaled_polar_op() -> Op:
    def retract(weight: Tensor) -> Tensor:
        # Twice: where a step is as long as the weight, its singular values are far apart.
        q = near_polar(near_polar(weight))
        return (q * weight).sum((-2, -1), keepdim=True) / weight.shape[-1] * q

    def cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
        one = near_polar.cost(shape, itemsize)
        return one + one + elementwise_cost(3, 4)(shape, itemsize)

    return Op(f"retract[{UnitConditionNumber()}]", retract, cost)
