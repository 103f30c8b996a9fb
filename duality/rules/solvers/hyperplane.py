r"""Tangent spaces that are a hyperplane: the steepest direction is a root on a line.

    argmax <G, A>   over   ||A|| <= 1   and   <N, A> = 0

By duality it is the least of phi(l) = ||G + l N||_*, a convex function of one number whose slope
is h(l) = <N, duality_map(G + l N)>.  Where h is continuous, the direction is the duality map at
the root.  Where h jumps over zero no duality map is tangent, and the direction is the convex
combination of those on both sides that is: it attains phi at the jump, so it is the steepest.

Source: Boyd and Vandenberghe 2004, Convex Optimization, section 5.2, for the duality.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from modula.kernels.elementwise.length import normalise
from modula.kernels.op import Shape
from modula.manifolds.base import Manifold
from modula.manifolds.implicit import Implicit
from modula.manifolds.spectral_sphere import SpectralSphere
from modula.manifolds.sphere import Sphere
from modula.norms.base import Norm
from modula.norms.vector import L2

ROUNDS = 12  # the gap is then below 1e-5, see the tests
ROOT_ROUNDS = 60  # of a bound that is tight to rounding
SEARCHES = 3  # ways to choose the next point, taken in turn


def is_hyperplane(norm: Norm, manifold: Manifold, shape: Shape) -> bool:
    """Whether each weight that the norm measures has one linear constraint on its tangents."""
    if norm.ndim != manifold.ndim:
        return False
    if isinstance(manifold, Implicit):
        return manifold.is_hypersurface(tuple(shape))
    return isinstance(manifold, Sphere | SpectralSphere)


def normal_of(manifold: Manifold, weight: Tensor) -> Tensor:
    """The unit normal of a hyperplane of tangents: L* 1 / ||L* 1||, of their constraint L."""
    constraint = manifold.tangent_constraint(weight)
    normal = constraint.adjoint(torch.ones_like(constraint.of(weight)))
    return L2(manifold.ndim).duality_map(normal)


@dataclass(frozen=True)
class Side:
    """One end of the bracket: the number l, D = duality_map(G + l N), <G, D> and h = <N, D>.

    phi lies nowhere below the line <G, D> + l h, and touches it at l.
    """

    at: Tensor
    direction: Tensor
    value: Tensor
    slope: Tensor

    def or_else(self, other: "Side", mask: Tensor) -> "Side":
        """This side where the mask holds, the other one elsewhere."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Side(*(torch.where(mask, a, b) for a, b in pairs))


def steepest_in_hyperplane(
    norm: Norm, normal: Tensor, gradient: Tensor, rounds: int = ROUNDS
) -> tuple[Tensor, Tensor]:
    """The direction, and the least phi(l) seen: no tangent of norm one gains more.

    normal, gradient: (..., *weight) with <normal, normal> = 1, the gradient tangent; a zero
    gradient gives a zero direction.
    """
    dims = tuple(range(-norm.ndim, 0))

    def inner(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(dims, keepdim=True)

    def side(at: Tensor, query: Tensor) -> Side:
        d = norm.duality_map(query)
        return Side(at, d, inner(gradient, d), inner(normal, d))

    # Beyond the reach the normal outweighs the gradient, and the slope has the normal's sign.
    far = side(torch.zeros_like(inner(normal, normal)), normal)
    here = side(far.at, gradient)
    least = here.value
    reach = 2 * least / far.slope
    high = Side(reach, far.direction, far.value, far.slope)
    low = Side(-reach, -far.direction, -far.value, -far.slope)
    low, high = here.or_else(low, here.slope < 0), here.or_else(high, here.slope >= 0)
    for turn in range(rounds):
        at = _next(low, high, turn % SEARCHES)
        here = side(at, gradient + at * normal)
        least = torch.minimum(least, here.value + at * here.slope)
        low, high = here.or_else(low, here.slope < 0), here.or_else(high, here.slope >= 0)
    share = high.slope / (high.slope - low.slope)  # high.slope >= 0 > low.slope
    mixed = share * low.direction + (1 - share) * high.direction
    tangent = mixed - inner(normal, mixed) * normal
    return torch.where(reach > 0, tangent, 0.0), least.squeeze(dims)


def _next(low: Side, high: Side, search: int) -> Tensor:
    """Where to look next, strictly between the sides if they differ.

    In turn where the two lines below phi meet, which finds a jump; where the slope would be zero
    if it were linear, which finds a smooth root; and half way, which never fails.
    """
    half = (low.at + high.at) / 2
    if search == 0:
        at = (low.value - high.value) / (high.slope - low.slope)
    elif search == 1:
        at = (low.at * high.slope - high.at * low.slope) / (high.slope - low.slope)
    else:
        at = half
    return torch.where((low.at < at) & (at < high.at), at, half)


def steepest(norm: Norm, manifold: Manifold, weight: Tensor, tangent: Tensor) -> Tensor:
    """The steepest unit tangent, for the tangent part of a gradient at any scale."""
    dtype = torch.promote_types(tangent.dtype, torch.float32)
    g: Tensor = normalise(tangent.to(dtype), ndim=norm.ndim)
    found, _ = steepest_in_hyperplane(norm, normal_of(manifold, weight.to(dtype)), g)
    return found.to(tangent.dtype)


def least_bound(
    norm: Norm, manifold: Manifold, weight: Tensor, tangent: Tensor, rounds: int = ROOT_ROUNDS
) -> Tensor:
    """An upper bound on <tangent, T> over all tangents T of norm one, tight to rounding."""
    g: Tensor = normalise(tangent, ndim=norm.ndim)
    _, least = steepest_in_hyperplane(norm, normal_of(manifold, weight), g, rounds)
    return least * torch.linalg.vector_norm(tangent, dim=tuple(range(-norm.ndim, 0)))
