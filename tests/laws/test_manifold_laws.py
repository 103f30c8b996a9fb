"""Every manifold keeps the promises of Manifold; a new one joins by one line in manifold_points."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from manifold_points import (
    MANIFOLDS,
    every_manifold,
    few,
    fitting,
    of_length_one,
    point_and_vector,
    scale_free,
)
from torch import Tensor
from torch.testing import assert_close

import modula.norms
from modula.manifolds.base import Manifold
from modula.manifolds.implicit import Implicit
from sources import concrete
from strategies import batches, seeds


def test_no_manifold_is_left_out() -> None:
    assert {type(manifold) for manifold in MANIFOLDS} == concrete(Manifold, "manifolds")


def on_it(manifold: Manifold, x: Tensor) -> None:
    """Residual zero, one number for each point, shape and dtype as given."""
    residual = manifold.residual(x)
    points = x.shape[: x.ndim - manifold.ndim] if manifold.ndim else ()
    assert_close(residual, torch.zeros(points, dtype=x.dtype), atol=1e-11, rtol=0)


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
    names = {cls.__name__: cls for cls in concrete(Manifold, "manifolds")} | {
        "of_length_one": of_length_one,
        **vars(modula.norms),
    }
    assert eval(str(manifold), names) == manifold  # noqa: S307
