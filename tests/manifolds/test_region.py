"""Regions against closed forms: cones by hand, balls against each other, weight decay."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.manifolds import (
    Manifold,
    NormBall,
    SpectralBall,
    SpectralBand,
    Stiefel,
    Transposed,
)
from modula.norms import L1, L2, Columns, FromDual, Max, Norm, Nuclear, RMSToRMS, Rows, Spectral

NORMS: list[Norm] = [Max(2), L1(2), L2(2), Rows(L2()), Columns(L1()), RMSToRMS(), Nuclear()]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_cone_of_the_spectral_ball_by_hand() -> None:
    """At diag(1, 1, 1/2) the upper 2 x 2 block may not grow: its positive part is cut off."""
    weight = torch.diag(torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64))
    vector = torch.tensor([[1.0, 4.0, 7.0], [2.0, 1.0, 8.0], [9.0, 9.0, 9.0]]).double()
    # sym of the block is [[1, 3], [3, 1]] with eigenvalues 4 and -2: 4/2 [[1, 1], [1, 1]] goes.
    expected = vector.clone()
    expected[:2, :2] -= 2.0
    assert_close(SpectralBall().to_tangent(weight, vector), expected)


def test_the_cone_of_the_band_holds_both_ways() -> None:
    weight = torch.diag(torch.tensor([2.0, 1.5, 1.0], dtype=torch.float64))
    identity = torch.eye(3, dtype=torch.float64)
    band = SpectralBand(1.0, 2.0)
    assert_close(band.to_tangent(weight, identity), torch.diag(torch.tensor([0.0, 1, 1]).double()))
    assert_close(
        band.to_tangent(weight, -identity), -torch.diag(torch.tensor([1.0, 1, 0]).double())
    )


def test_inside_every_vector_is_tangent() -> None:
    vector = draw(5, 3)
    for region in (SpectralBall(), SpectralBand(0.1, 1.0), NormBall(L2(2), 9.0)):
        weight = 0.5 * Stiefel().project(draw(5, 3, seed=1))
        assert_close(region.to_tangent(weight, vector), vector, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7)], ids=str)
def test_the_ball_of_the_spectral_norm_is_the_spectral_ball(shape: tuple[int, int]) -> None:
    """The limit of projections against the closed form."""
    one, other = NormBall(Spectral(), 1.5), SpectralBall(1.5)
    weight, vector = one.project(draw(*shape)), draw(*shape, seed=1)
    assert_close(weight, other.project(draw(*shape)))
    assert_close(
        one.to_tangent(weight, vector), other.to_tangent(weight, vector), rtol=0, atol=1e-7
    )


def test_the_cone_of_the_largest_entry_by_hand() -> None:
    weight = torch.tensor([0.5, -0.5, 0.1], dtype=torch.float64)
    vector = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    found = NormBall(Max(), 0.5).to_tangent(weight, vector)
    assert_close(found, torch.tensor([0.0, 2.0, 3.0], dtype=torch.float64))


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_weight_decay_never_leaves_the_ball_and_the_ball_is_its_own_retraction(norm: Norm) -> None:
    """Scion: (1 - lr) w - lr R D(m) for lr in [0, 1] is a mean of two points of the ball."""
    ball = NormBall(norm, radius=3.0)
    weight = ball.project(10 * draw(6, 4))
    assert ball.residual(10 * draw(6, 4)).max() > 0
    for k, lr in enumerate([0.0, 0.01, 0.1, 0.5, 1.0, 0.3, 0.02]):
        weight = (1 - lr) * weight - lr * ball.radius * norm.duality_map(draw(6, 4, seed=k))
        assert ball.residual(weight).max() <= 1e-12
        step = draw(6, 4, seed=k + 1)
        assert_close(ball.retract(weight, step), norm.project(weight + step, ball.radius))
        assert_close(ball.project(weight), weight, rtol=1e-9, atol=1e-9)


def stored(manifold: Manifold, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    weight = manifold.project(3 * torch.eye(6, 4, dtype=torch.float64) + 0.1 * draw(6, 4)).to(dtype)
    return weight, weight / weight.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("region", [SpectralBall(1.1), NormBall(Spectral(), 1.1)], ids=str)
def test_a_weight_that_rounding_left_inside_is_at_the_boundary(
    region: Manifold, dtype: torch.dtype
) -> None:
    weight, outwards = stored(region, dtype)
    assert region.to_tangent(weight, outwards).abs().max() < 0.01


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SpectralBall(0.0), "positive, finite radius, got 0.0"),
        (lambda: SpectralBall(float("nan")), "positive, finite radius, got nan"),
        (lambda: NormBall(Max(), -1.0), "positive, finite radius, got -1.0"),
        (lambda: SpectralBand(0.0, 1.0), r"0 < low < high.*SpectralBall\(high\)"),
        (lambda: SpectralBand(1.0, 1.0), r"0 < low < high.*Stiefel\(high\)"),
        (lambda: SpectralBand(2.0, 1.0), "0 < low < high, got 2.0 and 1.0"),
        (lambda: Transposed(SpectralBall()), "holds wide matrices as well"),
        (lambda: SpectralBall().check_shape((3,)), "at least 2 dims"),
        (lambda: SpectralBall().check_shape((0, 3)), "without entries"),
        (lambda: NormBall(FromDual(torch.norm, 2)).check_shape((3, 2)), "no projection"),
    ],
)
def test_what_is_no_region_gets_one_clear_sentence(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
