"""Proof that a direction is nearly the steepest one, without knowing the steepest one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from modula.duality.rules.separable import separate_bound, vector_of
from modula.duality.rules.solvers.general import multiplier_bounds
from modula.duality.rules.solvers.hyperplane import is_hyperplane, least_bound
from modula.duality.rules.transposed import norm_of_transposes
from modula.kernels.elementwise.length import normalise
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
from modula.norms.from_dual import is_searched
from modula.norms.numerics import ratio
from modula.norms.spectral import Spectral

ROUNDING = 1e-12  # of float64 sums; a gap below it, of either sign, is none
OFF_MANIFOLD = 1e-3  # of its length; more than a weight drifts off by in many float32 steps
CONTRADICTION = 1e-4  # an excess that rounding does not explain, under metrics either
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
    residual  ||W - P||_F over the longer of both, P the point of the manifold nearest to W
    excess    (<G, D'> / U - ||D'||)_+; 0 if norm and dual belong together, as U is the dual's
    seconds   what the proof cost: wall time of the call

    A gap is never below 1 - ||D'||, nor below zero: `excess` says by how much it is.
    """

    norm: float
    tangency: float
    gap: float
    residual: float = 0.0
    excess: float = 0.0
    seconds: float = field(default=0.0, compare=False)

    def passes(self, tolerance: float = 1e-5) -> bool:
        """Whether D is feasible and optimal at a point of the manifold, all to the tolerance.

        A gap below zero by more than the tolerance proves nothing, and does not pass.
        """
        missed = (self.norm - 1, self.tangency, abs(self.gap), self.residual, self.excess)
        return all(each <= tolerance for each in missed)

    @property
    def contradiction(self) -> str:
        """The law that the norm and its dual break, with both of its sides; "" if none is seen."""
        return contradiction(self.gap, self.excess)


def contradiction(gap: float, excess: float) -> str:
    """The sentence for a gap below 1 - ||D'|| by the excess; "" up to rounding.

    >>> contradiction(-0.2, 0.7)[:84]
    '<g, t> <= dual(g) norm(t) is broken: 1.2 dual(g) on the left, 0.5 dual(g) on the rig'
    """
    if not excess > CONTRADICTION:
        return ""
    share, length = 1 - gap, 1 - gap - excess
    return (
        f"<g, t> <= dual(g) norm(t) is broken: {share:.4g} dual(g) on the left, {length:.4g} "
        f"dual(g) on the right (so the gap, {gap:.2g}, is below 1 - norm(t) = {1 - length:.2g}): "
        "norm, dual or to_tangent is wrong"
    )


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

    The value of a FromDual norm is a lower bound, here at least <G, D'> / U: so far as it is short,
    `norm` and the gap are too small, never negative.  Its duality map, and with it U, is exact.
    Where f has kinks the value takes most of the time, seconds for 256 x 128 where f is cheap, and
    in proportion to what f costs: FromDual(f, iterations=30) bounds it.

    Raises ValueError for tensors that differ in shape or device, are not of real floating-point
    numbers or not finite, for a norm of fewer dims than the weight, for a shape that the manifold
    has no point of, and for a weight that is off the manifold by more than rounding and drift: 1e-3
    of its length, in half precision 8 times the dtype's eps.
    """
    start = perf_counter()
    check_kind("certify", "norm", norm, Norm)
    check_kind("certify", "manifold", manifold, Manifold, Euclidean())
    _check_tensors(norm, {"weight": weight, "gradient": gradient, "direction": direction})
    manifold.check_shape(tuple(weight.shape))
    residual = _residual(manifold, weight)
    proof = prove(norm, manifold, weight, gradient, direction, close)
    d = -direction.detach().double()
    off = torch.linalg.vector_norm(d - proof.tangent)
    tangency = float(ratio(off, torch.linalg.vector_norm(d)))
    return Certificate(
        norm=float(proof.norm if tangency <= ROUNDING else norm(d)),
        tangency=tangency,
        gap=float(proof.gap),
        residual=residual,
        excess=float(proof.excess),
        seconds=perf_counter() - start,
    )


def _residual(manifold: Manifold, weight: Tensor) -> float:
    """How far the weight is off the manifold, relative to its length; ValueError if it is too far.

    Not `manifold.residual`: this one is no larger than the rounding of an entry, at any size.
    """
    w = weight.detach().double()
    both = torch.stack((w, manifold.project(w)))
    both = ratio(both, both.abs().amax())  # so that squares of tiny entries are not lost
    off = torch.linalg.vector_norm(both[0] - both[1])
    residual = float(ratio(off, torch.linalg.vector_norm(both.flatten(1), dim=1).amax()))
    if not residual <= max(OFF_MANIFOLD, 8 * torch.finfo(weight.dtype).eps):
        raise ValueError(
            f"the weight is off {manifold} by {residual:.3g} of its length: a certificate needs a "
            "point of the manifold, as manifold.project(weight) is one"
        )
    return residual


def _check_tensors(norm: Norm, named: Mapping[str, Tensor]) -> None:
    """Raise ValueError for what no certificate speaks of."""
    for name, x in named.items():
        check_kind("certify", name, x, Tensor)
    tensors = list(named.values())
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
    if not tensors[0].numel():
        raise ValueError(f"a weight of shape {shapes[0]} has no entries, and nothing to certify")
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


class Proof(NamedTuple):
    """What is proved of one direction: float64 tensors on the device of the weight.

    tangent  the tangent part T of D
    norm     ||T||; of a norm whose value is searched for, at least <G, D'> / U
    gap      see Certificate; NaN where the weight, the gradient or D is not finite
    excess   see Certificate; 0 for a norm whose value is searched for
    """

    tangent: Tensor
    norm: Tensor
    gap: Tensor
    excess: Tensor


def gap_of(
    norm: Norm,
    manifold: Manifold,
    weight: Tensor,
    gradient: Tensor,
    direction: Tensor,
    close: float = CLOSE,
) -> Tensor:
    """The gap of one direction's certificate: a float64 number on the device of the weight.

    NaN where the weight, the gradient or the direction is not finite.  The weight is taken to be on
    the manifold, and the norm to belong to its dual: `certify` looks.
    """
    return prove(norm, manifold, weight, gradient, direction, close).gap


def prove(
    norm: Norm,
    manifold: Manifold,
    weight: Tensor,
    gradient: Tensor,
    direction: Tensor,
    close: float = CLOSE,
) -> Proof:
    """Prove how good one direction is.

    Nobody waits for the device (Implicit manifolds do, whenever they solve).  So the search for a
    better bound stops as soon as D is proved optimal only where looking is free, on a CPU.
    """
    given = (weight, gradient, direction)
    finite = torch.stack([x.detach().isfinite().all() for x in given]).all()
    weight, gradient, direction = (torch.where(finite, x.detach(), 0.0) for x in given)
    # The step -D is what has to be tangent: at the boundary of a region D itself need not be.
    w, g, d = _point(manifold, weight), -gradient.double(), -direction.double()
    g = ratio(g, torch.linalg.vector_norm(g, ord=torch.inf))  # whose scale is all the same
    tangent, slope = manifold.to_tangent(w, d), manifold.to_tangent(w, g)
    if isinstance(manifold, Region):
        slope = g  # whose normal part counts: it can turn a way along the boundary into an ascent
    length = norm(tangent)
    # <slope, D'> is <G, D'> without the rounding that a large normal part of G would leave in it.
    attained = (slope * (tangent / length.clamp(min=1.0))).sum()
    # A gradient normal to the manifold leaves rounding noise as its bound: nothing can be missed.
    noise = ROUNDING * norm.dual(g)
    upper = upper_bound(norm, manifold, w, slope, torch.maximum((1 + close) * attained, noise))
    nothing, share = upper <= noise, ratio(attained, upper)
    if is_searched(norm):
        length = torch.where(nothing, length, length.maximum(share * length.clamp(min=1.0)))
        share = share.clamp(max=1.0)
    gap = torch.where(nothing | ((1 - share).abs() < ROUNDING), 0.0, 1 - share)
    excess = torch.where(nothing, 0.0, (share - length.clamp(max=1.0)).clamp(min=0.0))
    return Proof(tangent, length, *(torch.where(finite, x, torch.nan) for x in (gap, excess)))


def _point(manifold: Manifold, weight: Tensor) -> Tensor:
    """The weight in float64; on the boundary of a region if that is where its own dtype has it."""
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
        q = normalise(weight, ndim=2) * weight.shape[-1] ** 0.5
        turning = stiefel_dual_bound(q, Stiefel().to_tangent(q, tangent))
        yield norm.unit_radius(weight.shape) * torch.hypot(turning, (tangent * q).sum())
    if is_hyperplane(norm, manifold, weight.shape):
        yield least_bound(norm, manifold, weight, tangent)
    elif isinstance(manifold, Oblique) and (vector := vector_of(norm, manifold.axis)) is not None:
        yield separate_bound(vector, norm, manifold.axis, weight, tangent)
    else:
        rounds = max(FEWEST_ROUNDS, min(MOST_ROUNDS, BUDGET // max(1, weight.numel())))
        yield from multiplier_bounds(norm, manifold, weight, tangent, rounds)
