"""geoopt as a second opinion: an independent package for the same spheres and Stiefel manifolds.

Its names for ours: projx is project, proju is to_tangent (Euclidean inner product), retr is
retract; a step v is added in both.  Where it differs:

    Stiefel   its retraction is the Q of the QR decomposition of W + V with a positive diagonal,
              ours the polar factor: the same column space, and the same point to first order.
              Its geodesic (expmap) and ours agree to second order.
    Sphere    it has radius one and takes the last dim; ours may have any radius and span more dims.
"""

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close

from modula.manifolds import SPD, Manifold, Oblique, Sphere, Stiefel
from strategies import batches, seeds

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it compiles with torch.jit, which torch has deprecated
    geoopt = pytest.importorskip("geoopt")


def rows(x: Tensor) -> Tensor:
    return x


def columns(x: Tensor) -> Tensor:
    return x.mT


def entries(x: Tensor) -> Tensor:
    return x.flatten(-2)


SPHERES = pytest.mark.parametrize(
    ("manifold", "view"),
    [(Sphere(), rows), (Oblique("rows"), rows), (Oblique("columns"), columns)]
    + [(Sphere(ndim=2), entries)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)


def drawn_with(x: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(x.shape, dtype=x.dtype, generator=generator)


@SPHERES
@pytest.mark.parametrize("radius", [1.0, 3.0])
@given(x=batches(), seed=seeds())
def test_spheres_project_and_retract_alike(
    manifold: Any, view: Any, radius: float, x: Tensor, seed: int
) -> None:
    ours, theirs = type(manifold)(**{**vars(manifold), "radius": radius}), geoopt.Sphere()
    point = ours.project(x)
    assert_close(view(point), radius * theirs.projx(view(x)))
    v = drawn_with(x, seed)
    tangent = ours.to_tangent(point, v)
    unit = view(point) / radius
    assert_close(view(tangent), theirs.proju(unit, view(v)))
    stepped = radius * theirs.retr(unit, view(tangent) / radius)
    assert_close(view(ours.retract(point, tangent)), stepped)
    moved = view(ours.transport(point, ours.project(v), tangent))
    assert_close(moved, theirs.transp(unit, theirs.projx(view(v)), view(tangent)))


@given(x=batches(tall=True), seed=seeds())
def test_stiefel_has_the_same_points_and_tangents(x: Tensor, seed: int) -> None:
    ours, theirs = Stiefel(), geoopt.EuclideanStiefel()
    v = drawn_with(x, seed)  # of full rank: else several points are nearest
    assert_close(ours.project(v), theirs.projx(v))
    point = ours.project(v)
    tangent = ours.to_tangent(point, x)
    assert_close(tangent, theirs.proju(point, x))
    other = ours.project(v.flip(-2))
    assert_close(ours.transport(point, other, tangent), theirs.transp(point, other, tangent))


@given(x=batches(tall=True, max_batch_dims=0), seed=seeds())
def test_stiefel_retracts_to_the_same_column_space(x: Tensor, seed: int) -> None:
    ours, theirs = Stiefel(), geoopt.EuclideanStiefel()
    point = ours.project(drawn_with(x, seed))
    tangent = ours.to_tangent(point, x / x.norm())
    polar, qr = ours.retract(point, tangent), theirs.retr(point, tangent)
    assert_close(polar @ polar.mT, qr @ qr.mT)


def errors_of(ours: Manifold, geodesic: Any, point: Tensor, tangent: Tensor) -> list[float]:
    return [
        float((ours.retract(point, t * tangent) - geodesic(point, t * tangent)).norm())
        for t in (0.1, 0.05)
    ]


@pytest.mark.parametrize(("path", "order"), [("retr", 2), ("expmap", 3)])
@pytest.mark.parametrize("shape", [(5, 5), (7, 3)], ids=str)
def test_stiefel_leaves_their_paths_only_to_this_order(
    path: str, order: int, shape: tuple[int, int]
) -> None:
    ours, theirs = Stiefel(), geoopt.EuclideanStiefel()
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    point = ours.project(draws[0])
    tangent = ours.to_tangent(point, draws[1])
    far, near = errors_of(ours, getattr(theirs, path), point, tangent / tangent.norm())
    assert 1e-7 < near
    assert far / near == pytest.approx(2**order, rel=0.1)


def test_a_sphere_leaves_their_geodesic_to_third_order() -> None:
    point = Sphere().project(torch.arange(1.0, 6.0, dtype=torch.float64))
    tangent = Sphere().to_tangent(point, torch.ones(5, dtype=torch.float64))
    far, near = errors_of(Sphere(), geoopt.Sphere().expmap, point, tangent / tangent.norm())
    assert far / near == pytest.approx(8, rel=0.05)


@given(x=batches(square=True), seed=seeds())
def test_positive_definite_matrices_retract_alike(x: Tensor, seed: int) -> None:
    """Its projx takes |eigenvalues|, which is not the nearest point; the rest agrees."""
    ours, theirs = SPD(floor=0.1), geoopt.SymmetricPositiveDefinite()
    point, v = ours.project(x / x.norm()), drawn_with(x, seed)
    tangent = ours.to_tangent(point, v)
    assert_close(tangent, theirs.proju(point, v))
    assert_close(ours.retract(point, tangent), theirs.retr(point, tangent), atol=1e-9, rtol=1e-9)
