"""Proof that a direction is nearly the steepest one, without knowing the steepest one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from modula.duality.general import multiplier_bounds
from modula.duality.hyperplane import is_hyperplane, least_bound
from modula.kernels.gram_irls import stiefel_dual_bound
from modula.manifolds.base import Manifold
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.region import Region
from modula.manifolds.stiefel import Stiefel
from modula.norms.base import Norm
from modula.norms.operator import Spectral

ROUNDING = 1e-12  # of float64 sums; a gap below it, of either sign, is none
CLOSE = 1e-7  # a bound this near to what is attained need not be improved
ROOT_ROUNDS = 60  # of the search along the normal of a hyperplane
FEWEST_ROUNDS, MOST_ROUNDS = 60, 300  # of the general solver, in between
BUDGET = 1 << 21  # entries that those rounds go over: 300 rounds up to 83 x 83


@dataclass(frozen=True)
class Certificate:
    """What is proved of a direction D for the gradient G at the weight W.

    norm      ||D|| in the declared norm; 1 where the step uses all it is allowed
    tangency  ||D - its tangent part||_F / ||D||_F; 0 on the tangent space
    gap       (U - <G, D'>) / U, with D' = D made feasible (tangent, norm at most one) and U an
              upper bound on <G, T> over all feasible T: at most this share of the steepest
              descent is missing; 0 proves D optimal, more than 1 means ascent
    seconds   what the proof cost: wall time of the call
    """

    norm: float
    tangency: float
    gap: float
    seconds: float = field(default=0.0, compare=False)

    def passes(self, tolerance: float = 1e-5) -> bool:
        """Whether D is feasible and optimal, all three to the tolerance."""
        feasible = self.norm <= 1 + tolerance and self.tangency <= tolerance
        return feasible and self.gap <= tolerance


def certify(
    norm: Norm, manifold: Manifold, weight: Tensor, gradient: Tensor, direction: Tensor
) -> Certificate:
    """Certify one direction, computed in float64.

        gap = 1 - <G, D'> / U,   U = min over multipliers Y of ||G + L*(Y)||_*   (weak duality)

    weight, gradient, direction: one weight, equal shapes.  The first multiplier removes the normal
    part of G.  Better ones come from least squares (Spectral on Stiefel), from a root (spheres) or
    from the rounds of the general solver, as far as it takes to prove D optimal, up to a number of
    rounds that falls with the size of the weight.

    The value of a FromDual norm is a lower bound; so far as it is short, D' may be too long and
    the gap too small, even negative.  Its duality map, and with it U, is exact.

    Raises ValueError for unequal shapes, for a norm of fewer dims than the weight, and for a shape
    that the manifold has no point of.
    """
    start = perf_counter()
    if not weight.shape == gradient.shape == direction.shape or weight.ndim != norm.ndim:
        got = ", ".join(str(tuple(x.shape)) for x in (weight, gradient, direction))
        raise ValueError(
            f"{norm} is certified for a weight, gradient and direction of {norm.ndim} dims, all of "
            f"one shape; got {got}"
        )
    manifold.check_shape(tuple(weight.shape))
    w, d = _point(manifold, weight), -direction.detach().double()
    length, off = (torch.linalg.vector_norm(x) for x in (d, d - manifold.to_tangent(w, d)))
    return Certificate(
        norm=float(norm(d)),
        tangency=float(off / length) if length > 0 else 0.0,
        gap=float(gap_of(norm, manifold, weight, gradient, direction)),
        seconds=perf_counter() - start,
    )


def gap_of(
    norm: Norm, manifold: Manifold, weight: Tensor, gradient: Tensor, direction: Tensor
) -> Tensor:
    """The gap of one direction's certificate: a float64 number on the device of the weight.

    Nobody waits for the device (Implicit manifolds do, whenever they solve).  So the search for a
    better bound stops as soon as D is proved optimal only where looking is free, on a CPU.
    """
    # The step -D is what has to be tangent: at the boundary of a region D itself need not be.
    w, g, d = _point(manifold, weight), -gradient.detach().double(), -direction.detach().double()
    tangent, slope = manifold.to_tangent(w, d), manifold.to_tangent(w, g)
    if isinstance(manifold, Region):
        slope = g  # whose normal part counts: it can turn a way along the boundary into an ascent
    repaired = tangent / norm(tangent).clamp(min=1.0)
    # <slope, D'> is <G, D'> without the rounding that a large normal part of G would leave in it.
    attained = (slope * repaired).sum()
    # A gradient normal to the manifold leaves rounding noise as its bound: nothing can be missed.
    noise = ROUNDING * norm.dual(g)
    upper = upper_bound(norm, manifold, w, slope, torch.maximum((1 + CLOSE) * attained, noise))
    gap = 1 - attained / upper
    return torch.where((upper > noise) & (gap.abs() >= ROUNDING), gap, 0.0)


def _point(manifold: Manifold, weight: Tensor) -> Tensor:
    """The weight in float64; on the boundary of a region if that is where its own dtype has it."""
    weight = weight.detach()
    return manifold.settled(weight) if isinstance(manifold, Region) else weight.double()


def upper_bound(
    norm: Norm, manifold: Manifold, weight: Tensor, tangent: Tensor, enough: Tensor
) -> Tensor:
    """U >= <tangent, T> for every tangent T of norm at most one; on a CPU until it is `enough`."""
    best = torch.full_like(enough, torch.inf)
    for bound in _bounds(norm, manifold, weight, tangent):
        best = torch.minimum(best, bound)
        if best.device.type == "cpu" and best <= enough:
            break
    return best


def _bounds(norm: Norm, manifold: Manifold, weight: Tensor, tangent: Tensor) -> Iterator[Tensor]:
    """Upper bounds, the cheap ones first."""
    yield norm.dual(tangent)
    if isinstance(manifold, Euclidean):
        return
    if isinstance(norm, Spectral) and isinstance(manifold, Stiefel):
        radius = norm.unit_radius(weight.shape)
        yield radius * stiefel_dual_bound(weight / manifold.radius, tangent)
    if is_hyperplane(norm, manifold, weight.shape):
        yield least_bound(norm, manifold, weight, tangent, ROOT_ROUNDS)
    else:
        rounds = max(FEWEST_ROUNDS, min(MOST_ROUNDS, BUDGET // max(1, weight.numel())))
        yield from multiplier_bounds(norm, manifold, weight, tangent, rounds)
