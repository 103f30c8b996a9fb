"""spectral_clip: the nearest matrix with singular values between two bounds, against the SVD."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.op import Locality
from modula.kernels.spectral.clip import STEPS, spectral_clip
from modula.kernels.spectral.polar import exact_polar, polar
from modula.kernels.spectral.polynomials import PolarExpress
from strategies import batches, scales

SHAPES = [(1, 1), (4, 4), (9, 4), (4, 9), (2, 3, 7, 5), (200, 3)]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def by_svd(x: Tensor, low: float, high: float) -> Tensor:
    u, s, vh = torch.linalg.svd(x.double(), full_matrices=False)
    return (u * s.clamp(low, high)[..., None, :]) @ vh


def with_values(m: int, n: int, values: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(gaussian(m, n), full_matrices=False)
    return (u * values) @ vh


def assert_between(y: Tensor, low: float, high: float, tolerance: float) -> None:
    s = torch.linalg.svdvals(y.double())
    assert (s <= high * (1 + tolerance)).all(), s
    assert (s >= low * (1 - tolerance)).all(), s


bounds = pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.5, 1.5), (2.0, 2.0)])


@bounds
@settings(max_examples=40)
@given(x=batches(), scale=scales())
def test_it_is_the_nearest_matrix_in_between(
    low: float, high: float, x: Tensor, scale: float
) -> None:
    """Any rank, any scale: where x has no singular vectors, the distance alone is the same."""
    low, high = low * scale, high * scale
    y, best = spectral_clip(x, low=low, high=high), by_svd(x, low, high)
    size = max(high, float(x.norm()))
    assert_between(y, low, high, 1e-12)
    assert_close((y - x).norm(), (best - x).norm(), atol=1e-13 * size, rtol=1e-13)
    again = spectral_clip(y, low=low, high=high)
    assert_close(again, y, atol=1e-12 * high, rtol=0)


@bounds
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_full_rank_agrees_with_the_svd(
    shape: tuple[int, ...], dtype: torch.dtype, low: float, high: float
) -> None:
    x = gaussian(*shape).to(dtype)
    before = x.clone()
    y = spectral_clip(x, low=low, high=high)
    assert y.dtype == dtype and torch.equal(x, before)
    size = float(torch.linalg.matrix_norm(x.double(), ord=2).max())
    assert_close(y.double(), by_svd(x, low, high), atol=TOLERANCE[dtype] * size, rtol=0)
    assert_close(spectral_clip(x.mT, low=low, high=high), y.mT)


def test_by_hand() -> None:
    x = torch.diag(torch.tensor([3.0, -0.7, 0.2], dtype=torch.float64))
    expected = torch.diag(torch.tensor([1.0, -0.7, 0.5], dtype=torch.float64))
    assert_close(spectral_clip(x, low=0.5, high=1.0), expected)
    # A rectangle shares its singular vectors with its clip, which I in place of O would not.
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert_close(spectral_clip(x, high=1.0), x / 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "values",
    [
        torch.ones(40),
        1 + 1e-3 * torch.linspace(-1, 1, 40),
        1 + 1e-7 * torch.linspace(-1, 1, 40),
        torch.linspace(0, 2, 40),
        torch.logspace(-6, 3, 40),
        torch.cat((torch.linspace(0.5, 3, 20), torch.zeros(20))),
    ],
    ids=["at", "near", "nearer", "around", "far", "deficient"],
)
def test_singular_values_near_a_bound_and_far_from_it(values: Tensor, dtype: torch.dtype) -> None:
    """As near to the exact answer as float32 itself, on both sides and at the bound."""
    rounding = torch.finfo(dtype).eps * max(1.0, float(values.max()))
    for m in (64, 40):
        x = with_values(m, 40, values.double()).to(dtype)
        y = spectral_clip(x, high=1.0)
        assert_between(y, 0.0, 1.0, 10 * rounding)
        assert_close(y.double(), by_svd(x, 0.0, 1.0), atol=100 * rounding, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_the_scale_does_not_matter(scale: float, dtype: torch.dtype) -> None:
    x, eps = gaussian(3, 9, 5).to(dtype), torch.finfo(dtype).eps
    for low in (0.0, 0.7):
        scaled = spectral_clip(scale * x, low=scale * low, high=scale)
        once = spectral_clip(x, low=low, high=1.0)
        assert_close(scaled / scale, once, atol=100 * eps, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_far_inside_it_is_the_matrix_itself_and_far_outside_the_polar_factor(
    dtype: torch.dtype,
) -> None:
    x = gaussian(3, 9, 5).to(dtype)
    assert torch.equal(spectral_clip(1e-30 * x, high=1.0), 1e-30 * x)
    assert torch.equal(spectral_clip(x, high=1e30), x)
    polar_factor = exact_polar(x.double())
    tolerance = 200 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    tolerance = max(tolerance, torch.finfo(dtype).eps)
    far_out, far_in = spectral_clip(1e30 * x, high=2.0), spectral_clip(1e-30 * x, low=2.0, high=3.0)
    for far in (far_out, far_in):
        assert_close(far.double(), 2 * polar_factor, atol=2 * tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 15, 30])
def test_what_has_no_singular_vectors_finds_some(rank: int, dtype: torch.dtype) -> None:
    """Random factors, and a block of a matrix of zeros: not even rounding fills that one."""
    block = torch.zeros(30, 30, dtype=dtype)
    block[30 - rank :, :rank] = gaussian(rank, rank).to(dtype)
    eps = torch.finfo(dtype).eps
    for x in (block, (gaussian(30, rank) @ gaussian(rank, 30, seed=1)).to(dtype)):
        y = spectral_clip(x, low=0.5, high=1.0)
        assert_between(y, 0.5, 1.0, 20 * eps)
        distance = (by_svd(x, 0.5, 1.0) - x.double()).norm()
        assert_close((y.double() - x.double()).norm(), distance, rtol=20 * eps, atol=0)
        assert torch.equal(spectral_clip(x, low=0.5, high=1.0), y)


@settings(max_examples=20)
@given(x=batches(max_batch_dims=0), high=st.floats(0.1, 10.0))
def test_a_ball_is_convex_so_that_no_two_points_part(x: Tensor, high: float) -> None:
    other = x.flip(0) + x.norm() / x.numel() * gaussian(*x.shape)
    moved = (spectral_clip(x, high=high) - spectral_clip(other, high=high)).norm()
    assert moved <= (x - other).norm() * (1 + 1e-12) + 1e-13 * x.norm()


def test_fewer_steps_leave_a_known_error() -> None:
    values = torch.cat((torch.linspace(0, 2, 20), 1 + 1e-4 * torch.linspace(-1, 1, 20)))
    x = with_values(40, 40, values.double())
    coarse = PolarExpress(steps=8, lower=1e-3, safety=1.01, schatten=8)
    error = spectral_clip(x, high=1.0, polynomials=coarse) - by_svd(x, 0.0, 1.0)
    assert 1e-6 < torch.linalg.matrix_norm(error, ord=2) < 1e-3


@pytest.mark.parametrize("shape", [(2, 3, 10, 4), (2, 3, 4, 10)], ids=str)
def test_a_batch_is_a_loop(shape: tuple[int, ...]) -> None:
    x = gaussian(*shape)
    x[0, 1] = 0
    x[1, 2] *= 1e-20
    together = spectral_clip(x, low=0.5, high=1.0)
    for i in range(2):
        for j in range(3):
            assert_close(together[i, j], spectral_clip(x[i, j], low=0.5, high=1.0))
    assert spectral_clip(torch.zeros(0, 4, 3), high=1.0).shape == (0, 4, 3)
    assert not spectral_clip(torch.full((3, 3), float("nan")), high=1.0).isfinite().any()


@pytest.mark.parametrize("given", [(-1.0, 1.0), (2.0, 1.0), (0.0, 0.0), (0.0, float("inf"))])
def test_bounds_that_are_none_get_one_clear_sentence(given: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="needs 0 <= low <= high < inf and high > 0, got low="):
        spectral_clip(torch.eye(2), low=given[0], high=given[1])


def test_cost() -> None:
    """Two polar factors, of the matrix and of a square, and a third one for a second bound."""
    assert spectral_clip.locality is Locality.WHOLE
    one = polar.cost((64, 64), polynomials=STEPS[torch.float32]).flops
    cap, band = (spectral_clip.cost((64, 64), low=low).flops for low in (0.0, 0.5))
    assert 2 * one < cap < 2.2 * one
    assert 3 * one < band < 4 * one
    assert_close(spectral_clip.cost((5, 64, 128)).flops, 5 * spectral_clip.cost((128, 64)).flops)
