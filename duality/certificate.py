"""Proof that a direction is nearly the steepest one, without knowing the steepest one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modula.kernels.gram_irls import stiefel_dual_bound
from modula.manifolds.base import Manifold
from modula.manifolds.stiefel import Stiefel
from modula.norms.base import Norm
from modula.norms.operator import Spectral

ROUNDING = 1e-12  # of float64 sums; a gap below it, of either sign, is none


@dataclass(frozen=True)
class Certificate:
    """What is proved of a direction D for the gradient G at the weight W.

    norm      ||D|| in the declared norm; 1 where the step uses all it is allowed
    tangency  ||D - its tangent part||_F / ||D||_F; 0 on the tangent space
    gap       (U - <G, D'>) / U, with D' = D made feasible (tangent, norm at most one) and U an
              upper bound on <G, T> over all feasible T: at most this share of the steepest
              descent is missing; 0 proves D optimal, more than 1 means ascent
    """

    norm: float
    tangency: float
    gap: float

    def passes(self, tolerance: float = 1e-5) -> bool:
        """Whether D is feasible and optimal, all three to the tolerance."""
        feasible = self.norm <= 1 + tolerance and self.tangency <= tolerance
        return feasible and self.gap <= tolerance


def certify(
    norm: Norm, manifold: Manifold, weight: Tensor, gradient: Tensor, direction: Tensor
) -> Certificate:
    """Certify one direction, computed in float64.

        gap = 1 - <G, D'> / U,   U = min over multipliers Y of ||G + L*(Y)||_*   (weak duality)

    weight, gradient, direction: one weight, equal shapes.  The multiplier is the one that removes
    the normal part of G, and for Spectral on Stiefel a better one found by least squares.

    Raises ValueError for unequal shapes.
    """
    if not weight.shape == gradient.shape == direction.shape:
        raise ValueError(
            "certify needs weight, gradient and direction of one shape; got "
            f"{tuple(weight.shape)}, {tuple(gradient.shape)}, {tuple(direction.shape)}"
        )
    w, g, d = (x.detach().double() for x in (weight, gradient, direction))
    tangent = manifold.to_tangent(w, d)
    length = torch.linalg.vector_norm(d)
    upper = upper_bound(norm, manifold, w, g)
    repaired = tangent / norm(tangent).clamp(min=1.0)
    # A gradient normal to the manifold leaves rounding noise as its bound: nothing can be missed.
    gap = 1 - float((g * repaired).sum() / upper) if upper > ROUNDING * norm.dual(g) else 0.0
    return Certificate(
        norm=float(norm(d)),
        tangency=float(torch.linalg.vector_norm(d - tangent) / length) if length > 0 else 0.0,
        gap=0.0 if abs(gap) < ROUNDING else gap,
    )


def upper_bound(norm: Norm, manifold: Manifold, weight: Tensor, gradient: Tensor) -> Tensor:
    """U >= <G, T> for every tangent T of norm at most one."""
    bound = norm.dual(manifold.to_tangent(weight, gradient))
    if isinstance(norm, Spectral) and isinstance(manifold, Stiefel):
        radius = norm.unit_radius(weight.shape)
        tighter = radius * stiefel_dual_bound(weight / manifold.radius, gradient)
        return torch.minimum(bound, tighter)
    return bound
