"""Tangents, constraints on them, and steps along them: what every manifold promises."""

import torch
from hypothesis import given, settings
from manifold_points import (
    every_manifold,
    few,
    fitting,
    inner,
    point_and_vector,
    reach,
    regions,
    rounding,
    second_order,
    spaces,
)
from torch import Tensor
from torch.testing import assert_close

import modula.manifolds  # noqa: F401  (so that every subclass is known)
from modula.manifolds.base import Manifold
from modula.manifolds.isospectral import Isospectral
from modula.manifolds.region import Region
from modula.manifolds.spectral_ball import SpectralBand
from strategies import batches, scales, seeds


@spaces
@few
@given(x=batches(tall=True), seed=seeds(), scale=scales())
def test_to_tangent_is_an_orthogonal_projection(
    manifold: Manifold, x: Tensor, seed: int, scale: float
) -> None:
    point, v = point_and_vector(manifold, fitting(manifold, x), seed)
    v = scale * v
    u = torch.roll(v, 1, -1) + v.flip(-2)
    tangent, other = manifold.to_tangent(point, v), manifold.to_tangent(point, u)
    size = v.norm() + u.norm()
    assert_close(manifold.to_tangent(point, tangent), tangent, atol=1e-12 * float(size), rtol=0)
    # What was removed is orthogonal to every tangent, not only to this one.
    removed = inner(manifold, v - tangent, other)
    assert_close(removed, torch.zeros_like(removed), atol=1e-12 * float(size**2), rtol=0)


@regions
@few
@given(x=batches(tall=True), seed=seeds(), scale=scales())
def test_to_tangent_of_a_region_is_the_projection_on_a_cone(
    manifold: Manifold, x: Tensor, seed: int, scale: float
) -> None:
    point, v = point_and_vector(manifold, x, seed)
    u = torch.roll(v, 1, -1) + v.flip(-2)
    tangent, other = manifold.to_tangent(point, v), manifold.to_tangent(point, u)
    tolerance = rounding(manifold) * float(v.norm() + u.norm())
    assert_close(manifold.to_tangent(point, tangent), tangent, atol=tolerance, rtol=0)
    assert_close(manifold.to_tangent(point, scale * v), scale * tangent, atol=1e-6, rtol=1e-6)
    assert (inner(manifold, v - tangent, tangent).abs() <= tolerance * float(v.norm())).all()
    # Nothing in the cone makes a sharp angle with what was removed.
    assert (inner(manifold, v - tangent, other) <= tolerance * float(u.norm())).all()
    assert (inner(manifold, v - tangent, manifold.project(u) - point) <= tolerance).all() or (
        isinstance(manifold, SpectralBand)  # not convex
    )


@every_manifold
@settings(max_examples=4)
@given(x=batches(tall=True), seed=seeds())
def test_a_projector_prepared_once_serves_every_vector(
    manifold: Manifold, x: Tensor, seed: int
) -> None:
    point, v = point_and_vector(manifold, fitting(manifold, x), seed)
    to_tangent = manifold.tangent_projector(point)
    for each in (v, torch.roll(v, 1, -1), -v, v):
        assert torch.equal(to_tangent(each), manifold.to_tangent(point, each))


@every_manifold
@few
@given(x=batches(tall=True), seed=seeds())
def test_a_tangent_leaves_the_manifold_only_to_second_order(
    manifold: Manifold, x: Tensor, seed: int
) -> None:
    """And a vector that is not tangent leaves it at once: to_tangent removes no more than that."""
    point, v = point_and_vector(manifold, fitting(manifold, x), seed)
    tangent = manifold.to_tangent(point, v)
    normal = v - tangent
    radius = getattr(manifold, "radius", 1.0)
    t = 1e-4 * reach(manifold, point) / (1 + float(v.norm()))
    assert (manifold.residual(point + t * tangent) <= 1e-7).all()
    if manifold == Isospectral():  # every matrix is on a manifold of its own
        return
    moved = manifold.residual(point + t * normal).norm() * radius
    assert moved >= 0.3 * t * normal.norm() - 1e-7 * radius


@every_manifold
@few
@given(x=batches(tall=True, max_batch_dims=0), seed=seeds())
def test_the_error_of_a_retraction_has_slope_two(manifold: Manifold, x: Tensor, seed: int) -> None:
    """||retract(x, t v) - x - t v|| ~ t^2: halving the step takes at least a quarter."""
    point, v = point_and_vector(manifold, fitting(manifold, x), seed)
    tangent = manifold.to_tangent(point, v)
    radius = reach(manifold, point)
    steps = [1e-2 * radius / (1 + float(tangent.norm())) * 0.5**k for k in range(4)]
    errors = [(manifold.retract(point, t * tangent) - point - t * tangent).norm() for t in steps]
    if errors[-1] > 1e-9 * radius:  # else flat to rounding: a single point, or a straight space
        slope = torch.log2(errors[0] / errors[-1]) / 3
        if isinstance(manifold, Region):  # more where a value that starts inwards turns around
            assert slope > 1.98
        else:
            assert_close(slope, torch.tensor(2.0, dtype=x.dtype), atol=0.02, rtol=0)
    assert errors[0] <= steps[0] ** 2 * tangent.norm() ** 2 / radius + 1e-12 * radius


@second_order
@few
@given(x=batches(tall=True, max_batch_dims=0), seed=seeds())
def test_a_second_order_retraction_strays_along_the_manifold_with_slope_three(
    manifold: Manifold, x: Tensor, seed: int
) -> None:
    """The tangent part of retract(x, t v) - x - t v is O(t^3): geodesics agree to t^2."""
    point, v = point_and_vector(manifold, fitting(manifold, x), seed)
    tangent = manifold.to_tangent(point, v)
    radius = reach(manifold, point)
    steps = [5e-2 * radius / (1 + float(tangent.norm())) * 0.5**k for k in range(4)]
    moved = [manifold.retract(point, t * tangent) - point - t * tangent for t in steps]
    errors = [manifold.to_tangent(point, error).norm() for error in moved]
    if errors[-1] > 1e-11 * radius:  # else it does not stray at all, to rounding
        assert torch.log2(errors[0] / errors[-1]) / 3 > 2.9
    assert errors[0] <= steps[0] ** 3 * tangent.norm() ** 3 / radius**2 + 1e-12 * radius


@every_manifold
@few
@given(x=batches(tall=True), seed=seeds())
def test_transport_ends_tangent_and_stays_when_nothing_moves(
    manifold: Manifold, x: Tensor, seed: int
) -> None:
    point, v = point_and_vector(manifold, fitting(manifold, x), seed)
    tangent = manifold.to_tangent(point, v)
    y = manifold.retract(point, tangent)
    moved = manifold.transport(point, y, tangent)
    tolerance = rounding(manifold) * float(tangent.norm())
    assert_close(manifold.to_tangent(y, moved), moved, atol=tolerance, rtol=0)
    assert_close(manifold.transport(point, point, tangent), tangent, atol=tolerance, rtol=0)


@every_manifold
@few
@given(x=batches(tall=True), seed=seeds())
def test_the_adjoint_of_the_tangent_constraint_is_one(
    manifold: Manifold, x: Tensor, seed: int
) -> None:
    """<L v, y> == <v, L* y>, whatever y is."""
    point, v = point_and_vector(manifold, fitting(manifold, x), seed)
    constraint = manifold.tangent_constraint(point)
    value = constraint.of(v)
    y = torch.randn(value.shape, dtype=v.dtype, generator=torch.Generator().manual_seed(seed + 1))
    normal = constraint.adjoint(y)
    assert normal.shape == v.shape
    size = float(value.norm() * y.norm() + v.norm() * normal.norm())
    assert_close((value * y).sum(), (v * normal).sum(), atol=1e-12 * size, rtol=0)


@spaces
@few
@given(x=batches(tall=True), seed=seeds())
def test_tangents_are_what_the_constraint_lets_through(
    manifold: Manifold, x: Tensor, seed: int
) -> None:
    """L is zero on tangents, and L* gives all that is normal, and nothing else."""
    point, v = point_and_vector(manifold, fitting(manifold, x), seed)
    constraint = manifold.tangent_constraint(point)
    tangent, value = manifold.to_tangent(point, v), constraint.of(v)
    small = 1e-10 * float(1 + value.norm())
    assert_close(constraint.of(tangent), torch.zeros_like(value), atol=small, rtol=0)
    normal = constraint.adjoint(value)
    stays = manifold.to_tangent(point, normal)
    assert_close(stays, torch.zeros_like(v), atol=1e-10 * float(1 + normal.norm()), rtol=0)
    assert_close(constraint.normal_part(v), v - tangent, atol=1e-12 * float(1 + v.norm()), rtol=0)
    assert bool(value.norm() > 1e-8 * v.norm()) == bool((v - tangent).norm() > 1e-8 * v.norm())
