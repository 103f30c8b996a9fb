"""The manifolds that the laws are tried on, and points of them.  A new one joins by one line."""

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from modula.manifolds.base import Manifold
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.implicit import Implicit
from modula.manifolds.isospectral import Isospectral
from modula.manifolds.norm_ball import NormBall
from modula.manifolds.oblique import Oblique
from modula.manifolds.region import Region
from modula.manifolds.spd import SPD
from modula.manifolds.spectral_ball import SpectralBall, SpectralBand
from modula.manifolds.spectral_sphere import SpectralSphere
from modula.manifolds.sphere import Sphere
from modula.manifolds.stiefel import Stiefel
from modula.manifolds.transposed import Transposed
from modula.manifolds.unit_condition_number import UnitConditionNumber
from modula.norms import L2, Max, Rows


def of_length_one(w: Tensor) -> Tensor:
    return (w * w).sum() - 1


MANIFOLDS = [
    Euclidean(),
    Sphere(),
    Sphere(radius=3.0),
    Sphere(radius=0.1, ndim=2),
    Oblique(),
    Oblique("columns", radius=3.0),
    Stiefel(),
    Stiefel(radius=3.0),
    Transposed(Stiefel()),
    UnitConditionNumber(),
    SpectralSphere(radius=20.0),  # above all that is drawn of size one: sigma_max stays simple
    SPD(floor=0.1),
    Implicit(of_length_one),
    Isospectral((0.3,)),  # of rank one: more singular values would not fit every shape
    Isospectral(),
    SpectralBall(radius=0.3),  # points of size one have some singular values above, some below
    SpectralBand(0.2, 0.4),
    NormBall(Max(), 0.2),
    NormBall(L2(2), 0.5),
    NormBall(Rows(L2()), 0.3),
]
every_manifold = pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
spaces = pytest.mark.parametrize(
    "manifold", [m for m in MANIFOLDS if not isinstance(m, Region)], ids=str
)
regions = pytest.mark.parametrize(
    "manifold", [m for m in MANIFOLDS if isinstance(m, Region)], ids=str
)
# Bringing sigma_max back by scaling is of first order; SPD's second order is another metric's.
second_order = pytest.mark.parametrize(
    "manifold", [m for m in MANIFOLDS if not isinstance(m, SpectralSphere | SPD | Region)], ids=str
)
# These have a scale of their own, or in Implicit's case squares of the user's that overflow.
scale_free = pytest.mark.parametrize(
    "manifold", [m for m in MANIFOLDS if isinstance(m, Sphere | Oblique | Stiefel)], ids=str
)
few = settings(max_examples=12)  # each law meets thirteen manifolds


def fitting(manifold: Manifold, x: Tensor) -> Tensor:
    """x, or its square top or transpose where only that has the shape of a point."""
    if isinstance(manifold, Transposed):
        return x.mT
    return x[..., : x.shape[-1], :] if isinstance(manifold, SPD) else x


def reach(manifold: Manifold, point: Tensor) -> float:
    """The length of a step that bends as much as it moves, or less."""
    if isinstance(manifold, SPD):
        return manifold.floor
    singular_values = torch.linalg.svdvals(point)
    if isinstance(manifold, Isospectral):
        values = torch.cat((singular_values, torch.zeros_like(singular_values[..., :1])), -1)
        gaps = (values[..., :, None] - values[..., None, :]).abs()
        return float(torch.where(gaps > 1e-9, gaps, 1.0).min())
    if isinstance(manifold, SpectralBall | SpectralBand):
        gaps = (singular_values[..., None] - singular_values.new_tensor(manifold.bounds)).abs()
        return float(torch.where(gaps > 1e-9, gaps, 1.0).min())
    if isinstance(manifold, NormBall):
        norm = manifold.norm
        lengths = norm.vector(point) if isinstance(norm, Rows) else norm(point)
        gaps = (manifold.radius - (point.abs() if isinstance(norm, Max) else lengths)).abs()
        return float(torch.where(gaps > 1e-9, gaps, manifold.radius).min())
    if isinstance(manifold, UnitConditionNumber):
        return float(singular_values.min())
    if isinstance(manifold, SpectralSphere) and point.shape[-1] > 1:
        gap = singular_values[..., 0] - singular_values[..., 1]
        return float((gap / singular_values.norm(dim=-1)).min()) * manifold.radius
    return float(getattr(manifold, "radius", 1.0))


def rounding(manifold: Manifold) -> float:
    """To what share of its length a tangent is known, in float64."""
    return 1e-9 if isinstance(manifold, NormBall) else 1e-12


def inner(manifold: Manifold, a: Tensor, b: Tensor) -> Tensor:
    """<a, b>, point by point."""
    return (a * b).sum(tuple(range(-max(manifold.ndim, 1), 0)))


def point_and_vector(manifold: Manifold, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A point, of size one where the manifold has no size, and a vector, tangent or not."""
    generator = torch.Generator().manual_seed(seed)
    return manifold.project(x / x.norm()), torch.randn(x.shape, dtype=x.dtype, generator=generator)
