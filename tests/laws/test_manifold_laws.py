"""Every manifold keeps the promises of Manifold.  A new manifold joins by one line in MANIFOLDS."""

import inspect
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import modula.manifolds  # noqa: F401  (so that every subclass is known)
import modula.norms
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
from strategies import batches, scales, seeds


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


def concrete(cls: type[Manifold]) -> Iterator[type[Manifold]]:
    if not inspect.isabstract(cls):
        yield cls
    for subclass in cls.__subclasses__():
        yield from concrete(subclass)


def test_no_manifold_is_left_out() -> None:
    assert {type(manifold) for manifold in MANIFOLDS} == set(concrete(Manifold))


def on_it(manifold: Manifold, x: Tensor) -> None:
    """Residual zero, one number for each point, shape and dtype as given."""
    residual = manifold.residual(x)
    points = x.shape[: x.ndim - manifold.ndim] if manifold.ndim else ()
    assert_close(residual, torch.zeros(points, dtype=x.dtype), atol=1e-11, rtol=0)


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


@every_manifold
@few
@given(x=batches(tall=True))
def test_project_lands_and_lands_once(manifold: Manifold, x: Tensor) -> None:
    x = fitting(manifold, x)
    landed = manifold.project(x)
    assert landed.shape == x.shape
    on_it(manifold, landed)
    assert_close(manifold.project(landed), landed)


@every_manifold
@few
@given(x=batches(tall=True), seed=seeds())
def test_no_sampled_point_is_nearer_than_the_projection(
    manifold: Manifold, x: Tensor, seed: int
) -> None:
    x = fitting(manifold, x)
    torch.manual_seed(seed)
    other = manifold.sample(tuple(x.shape), dtype=x.dtype)
    nearest, distance = (x - manifold.project(x)).norm(), (x - other).norm()
    assert nearest <= distance * (1 + 1e-12)


@every_manifold
@few
@given(x=batches(tall=True), seed=seeds())
def test_retract_lands_and_stays_for_zero(manifold: Manifold, x: Tensor, seed: int) -> None:
    point, v = point_and_vector(manifold, fitting(manifold, x), seed)
    for step in (1e-3, 1.0, 1e3):
        on_it(manifold, manifold.retract(point, step * manifold.to_tangent(point, v)))
    assert_close(manifold.retract(point, torch.zeros_like(v)), point)


@every_manifold
@few
@given(x=batches(tall=True), seed=seeds())
def test_sample_lands_and_follows_the_seed(manifold: Manifold, x: Tensor, seed: int) -> None:
    x = fitting(manifold, x)
    torch.manual_seed(seed)
    one = manifold.sample(tuple(x.shape), dtype=torch.float64)
    torch.manual_seed(seed)
    two = manifold.sample(tuple(x.shape), dtype=torch.float64)
    assert one.shape == x.shape
    on_it(manifold, one)
    assert torch.equal(one, two)


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
def test_a_batch_is_a_loop(manifold: Manifold, x: Tensor, seed: int) -> None:
    point, v = point_and_vector(manifold, fitting(manifold, x), seed)
    x = v.flip(-1)  # of full rank: else rounding picks one of several nearest points
    batch = x.shape[:-2]
    flat_x, flat_p, flat_v = (y.reshape(-1, *y.shape[-2:]) for y in (x, point, v))
    tangent = manifold.to_tangent(point, v)
    for together, alone in (
        (manifold.project(x), [manifold.project(a) for a in flat_x]),
        (tangent, [manifold.to_tangent(a, b) for a, b in zip(flat_p, flat_v, strict=True)]),
        (
            manifold.retract(point, v),
            [manifold.retract(a, b) for a, b in zip(flat_p, flat_v, strict=True)],
        ),
    ):
        assert_close(together, torch.stack(alone).reshape(*batch, *x.shape[-2:]))
    if manifold.ndim:
        alone = [manifold.residual(a) for a in flat_x]
        loop = torch.stack(alone).reshape(x.shape[: x.ndim - manifold.ndim])
        assert_close(manifold.residual(x), loop)


@every_manifold
@few
@given(x=batches(tall=True), seed=seeds())
def test_arguments_are_left_alone(manifold: Manifold, x: Tensor, seed: int) -> None:
    x = fitting(manifold, x)
    point, v = point_and_vector(manifold, x, seed)
    before = [y.clone() for y in (x, point, v)]
    manifold.project(x)
    manifold.residual(x)
    manifold.to_tangent(point, v)
    manifold.retract(point, v)
    manifold.transport(point, manifold.project(v), v)
    assert all(torch.equal(a, b) for a, b in zip((x, point, v), before, strict=True))


@every_manifold
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)],
    ids=str,
)
@few
@given(seed=seeds(), shape=st.sampled_from([(1, 1), (4, 4), (9, 3), (2, 12, 5)]))
def test_lower_precision_is_near_float64(
    manifold: Manifold, dtype: torch.dtype, tolerance: float, seed: int, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Far from rank deficient: there no precision agrees with another on the nearest point.
    x = torch.eye(*shape[-2:]) * 4 + torch.rand(*shape, generator=generator)
    x = fitting(manifold, x).to(dtype)
    v = torch.randn(x.shape, generator=generator).to(dtype)
    exact = manifold.project(x.double())
    point = exact.to(dtype)
    for low, high in (
        (manifold.project(x), exact),
        (manifold.to_tangent(point, v), manifold.to_tangent(exact, v.double())),
        (manifold.retract(point, v), manifold.retract(exact, v.double())),
    ):
        assert low.dtype == dtype
        assert_close(low.double(), high, atol=tolerance * 8, rtol=tolerance)


@scale_free
@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_projection_forgets_the_scale(manifold: Manifold, scale: float, dtype: torch.dtype) -> None:
    x = torch.randn(3, 7, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert_close(manifold.project(scale * x), manifold.project(x), atol=2e-5, rtol=0)


@pytest.mark.parametrize("manifold", [m for m in MANIFOLDS if not isinstance(m, Implicit)], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_projection_lands_at_every_scale(manifold: Manifold, scale: float) -> None:
    x = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0)) * scale
    landed = manifold.project(fitting(manifold, x))
    assert landed.isfinite().all()
    assert (manifold.residual(landed) <= 1e-5).all()


@every_manifold
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_zero_has_a_nearest_point_too(manifold: Manifold, dtype: torch.dtype) -> None:
    zero = fitting(manifold, torch.zeros(2, 5, 3, dtype=dtype))
    if isinstance(manifold, Implicit):
        with pytest.raises(ValueError, match="rank-deficient"):  # where its gradient is zero
            manifold.project(zero)
        return
    one, two = manifold.project(zero), manifold.project(zero)
    assert torch.equal(one, two)
    on_it(manifold, manifold.project(one.double()))
    assert (manifold.residual(one) <= 0.02).all()
    assert torch.equal(manifold.to_tangent(one, zero), zero)


@every_manifold
def test_an_empty_batch_is_fine(manifold: Manifold) -> None:
    nothing = fitting(manifold, torch.zeros(0, 5, 3))
    assert manifold.project(nothing).shape == nothing.shape
    assert manifold.retract(nothing, nothing).shape == nothing.shape
    assert manifold.to_tangent(nothing, nothing).shape == nothing.shape
    if manifold.ndim:
        assert manifold.residual(nothing).shape == nothing.shape[: 3 - manifold.ndim]


@every_manifold
def test_a_manifold_prints_as_the_call_that_makes_it(manifold: Manifold) -> None:
    names = {cls.__name__: cls for cls in concrete(Manifold)} | {
        "of_length_one": of_length_one,
        **vars(modula.norms),
    }
    assert eval(str(manifold), names) == manifold  # noqa: S307
