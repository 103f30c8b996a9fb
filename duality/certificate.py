"""Proof that a direction is nearly the steepest one, without knowing the steepest one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from modula.duality.rules.separable import separate_bound, vector_of
from modula.duality.rules.solvers.general import multiplier_bounds
from modula.duality.rules.solvers.hyperplane import is_hyperplane, least_bound
from modula.duality.rules.transposed import norm_of_transposes
from modula.kernels.tangent.stiefel_bound import stiefel_dual_bound
from modula.manifolds.base import Manifold
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.oblique import Oblique
from modula.manifolds.region import Region
from modula.manifolds.stiefel import Stiefel
from modula.manifolds.transposed import Transposed
from modula.manifolds.unit_condition_number import UnitConditionNumber
from modula.norms.base import Norm
from modula.norms.checks import check_kind
from modula.norms.spectral import Spectral

ROUNDING = 1e-12  # of float64 sums; a gap below it, of either sign, is none
CLOSE = 1e-7  # a gap this small need not be proved to be smaller
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
    norm: Norm,
    manifold: Manifold,
    weight: Tensor,
    gradient: Tensor,
    direction: Tensor,
    *,
    close: float = CLOSE,
) -> Certificate:
    """Certify one direction, computed in float64.

        gap = 1 - <G, D'> / U,   U = min over multipliers Y of ||G + L*(Y)||_*   (weak duality)

    weight, gradient, direction: one weight, equal shapes.  The first multiplier removes the normal
    part of G.  Better ones come from least squares (Spectral on Stiefel), from roots (spheres) or
    from the rounds of the general solver, as far as it takes to prove D optimal, up to a number of
    rounds that falls with the size of the weight.  A gap below `close` needs no better proof: a
    direction in few digits has one that more rounds would not make smaller.

    The value of a FromDual norm is a lower bound; so far as it is short, D' may be too long and
    the gap too small, even negative.  Its duality map, and with it U, is exact.

    Raises ValueError for tensors that differ in shape or device, are not of real floating-point
    numbers or not finite, for a norm of fewer dims than the weight, and for a shape that the
    manifold has no point of.
    """
    start = perf_counter()
    check_kind("certify", "norm", norm, Norm)
    check_kind("certify", "manifold", manifold, Manifold, Euclidean())
    _check_tensors(norm, {"weight": weight, "gradient": gradient, "direction": direction})
    manifold.check_shape(tuple(weight.shape))
    w, d = _point(manifold, weight), -direction.detach().double()
    length, off = (torch.linalg.vector_norm(x) for x in (d, d - manifold.to_tangent(w, d)))
    return Certificate(
        norm=float(norm(d)),
        tangency=float(off / length) if length > 0 else 0.0,
        gap=float(gap_of(norm, manifold, weight, gradient, direction, close)),
        seconds=perf_counter() - start,
    )


def _check_tensors(norm: Norm, named: Mapping[str, Tensor]) -> None:
    """Raise ValueError for what no certificate speaks of."""
    for name, x in named.items():
        check_kind("certify", name, x, Tensor)
    tensors = named.values()
    shapes = [tuple(x.shape) for x in tensors]
    if len({*shapes}) > 1 or len(shapes[0]) != norm.ndim:
        raise ValueError(
            f"{norm} is certified for a weight, gradient and direction of {norm.ndim} dims, all of "
            f"one shape; got {', '.join(map(str, shapes))}"
        )
    devices = [str(x.device) for x in tensors]
    if len({*devices}) > 1 or "meta" in devices:
        raise ValueError(
            "a certificate needs weight, gradient and direction on one device, with their values; "
            f"got them on {', '.join(devices)}: move them with .to({devices[0]!r})"
        )
    for name, x in named.items():
        if not x.is_floating_point():
            raise ValueError(
                f"the {name} is of {x.dtype}: a certificate needs real floating-point numbers, as "
                ".double() makes them of whole ones"
            )
        if not x.isfinite().all():
            raise ValueError(
                f"the {name} is not finite in {int((~x.isfinite()).sum())} of {x.numel()} entries: "
                "a certificate needs numbers"
            )


def gap_of(
    norm: Norm,
    manifold: Manifold,
    weight: Tensor,
    gradient: Tensor,
    direction: Tensor,
    close: float = CLOSE,
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
    upper = upper_bound(norm, manifold, w, slope, torch.maximum((1 + close) * attained, noise))
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
    if isinstance(manifold, Transposed) and (turned := norm_of_transposes(norm)) is not None:
        yield from _bounds(turned, manifold.manifold, weight.mT, tangent.mT)
        return
    if isinstance(norm, Spectral) and isinstance(manifold, Stiefel):
        radius = norm.unit_radius(weight.shape)
        yield radius * stiefel_dual_bound(weight / manifold.radius, tangent)
    if isinstance(norm, Spectral) and isinstance(manifold, UnitConditionNumber):
        # A tangent is a growth and a turn at right angles: see kernels/tangent/unit_condition.py.
        q = weight / torch.linalg.matrix_norm(weight) * weight.shape[-1] ** 0.5
        turning = stiefel_dual_bound(q, Stiefel().to_tangent(q, tangent))
        yield norm.unit_radius(weight.shape) * torch.hypot(turning, (tangent * q).sum())
    if is_hyperplane(norm, manifold, weight.shape):
        yield least_bound(norm, manifold, weight, tangent)
    elif isinstance(manifold, Oblique) and (vector := vector_of(norm, manifold.axis)) is not None:
        yield separate_bound(vector, norm, manifold.axis, weight, tangent)
    else:
        rounds = max(FEWEST_ROUNDS, min(MOST_ROUNDS, BUDGET // max(1, weight.numel())))
        yield from multiplier_bounds(norm, manifold, weight, tangent, rounds)
