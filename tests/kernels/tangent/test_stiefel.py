"""stiefel_map: feasible always, and certified near the best value by weak duality."""

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.op import Locality
from modula.kernels.spectral.polar import polar
from modula.kernels.tangent.stiefel import POLAR, stiefel_map
from modula.kernels.tangent.stiefel_bound import stiefel_dual_bound
from strategies import batches, seeds


def orthonormal(x: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return u @ vh


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def value(g: Tensor, a: Tensor) -> Tensor:
    return (g * a).sum((-2, -1))


def assert_feasible(w: Tensor, a: Tensor, tolerance: float = 1e-9) -> None:
    w, a = w.double(), a.double()
    slope = w.mT @ a + a.mT @ w
    assert_close(slope, torch.zeros_like(slope), atol=tolerance, rtol=0)
    assert (torch.linalg.matrix_norm(a, ord=2) <= 1 + tolerance).all()


def test_three_by_two_by_hand() -> None:
    """m is odd: the optimal A is not orthonormal, its singular values are 1 and sqrt(16/21)."""
    w = torch.eye(3, 2, dtype=torch.float64)
    g = torch.tensor([[3.0, 4.0], [0.0, 5.0], [1.0, 2.0]], dtype=torch.float64)
    best = torch.tensor([[0.0, 4.0], [-4.0, 0.0], [1.0, 2.0]], dtype=torch.float64) / 21**0.5
    assert_feasible(w, best)
    assert_close(value(g, best), stiefel_dual_bound(w, g), rtol=1e-4, atol=0)
    a = stiefel_map(w, g)
    assert_feasible(w, a)
    assert value(g, a) > 0.93 * value(g, best)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 16, 33])
def test_square_weights_have_a_closed_form(n: int) -> None:
    """The value is the nuclear norm of the skew part of W^T G; odd n has a singular skew part."""
    w, g = orthonormal(gaussian(3, n, n)), gaussian(3, n, n, seed=1)
    inner = w.mT @ g
    best = torch.linalg.matrix_norm((inner - inner.mT) / 2, ord="nuc")
    a = stiefel_map(w, g)
    assert_feasible(w, a, tolerance=1e-4)
    assert_close(value(g, a), best, rtol=1e-4, atol=0)


@pytest.mark.parametrize("n", [5, 7, 33])
def test_rounding_in_the_null_space_stays_out(n: int) -> None:
    """Odd n in float32: the polynomials of the polar factor multiply rounding by thousands."""
    w, g = orthonormal(gaussian(20, n, n)).float(), gaussian(20, n, n, seed=1).float()
    assert_feasible(w, stiefel_map(w, g), tolerance=3e-6)


def test_a_turn_of_the_plane() -> None:
    """At the identity with G = [[3, 4], [0, 5]]: the quarter turn, and the value 4."""
    g = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    assert_close(stiefel_map(torch.eye(2, dtype=torch.float64), g), turn, atol=1e-4, rtol=0)


@settings(max_examples=30)
@given(g=batches(tall=True), seed=seeds())
def test_every_direction_is_feasible_and_below_the_bound(g: Tensor, seed: int) -> None:
    w = orthonormal(gaussian(*g.shape, seed=seed))
    a = stiefel_map(w, g)
    # In two parts: the one normal to W is so to rounding over its smallest singular value.
    assert_feasible(w, a, tolerance=1e-7)
    assert (value(g, a) <= stiefel_dual_bound(w, g) * (1 + 1e-3) + 1e-9 * g.norm()).all()
    assert (value(g, a) >= -1e-9 * g.norm()).all()


def spectra(m: int, n: int, kind: str) -> Tensor:
    """A batch of four gradients: Gaussian, or with singular values 1/i, or nearly of rank two."""
    g = gaussian(4, m, n, seed=1)
    if kind == "rank 2 + noise":
        return gaussian(4, m, 2, seed=2) @ gaussian(4, 2, n, seed=3) + 0.1 * g
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    return g if kind == "Gaussian" else (u / torch.arange(1, n + 1)) @ vh


# Without iterating, worst of four: the nearer to m = 2 n, the more is missing.
SHARES = [
    (64, 32, 0.96),
    (65, 32, 0.96),
    (80, 32, 0.975),
    (96, 32, 0.982),
    (128, 32, 0.988),
    (33, 16, 0.97),
    (7, 3, 0.976),
    (5, 2, 0.99),
    (40, 1, 1 - 1e-9),
    (33, 32, 0.99),
    (24, 18, 0.975),
    (3, 2, 0.93),
    (5, 3, 0.95),
    (7, 4, 0.96),
    (9, 8, 0.95),
    (33, 18, 0.98),
]


@pytest.mark.parametrize("kind", ["Gaussian", "1/i", "rank 2 + noise"])
@pytest.mark.parametrize(("m", "n", "share"), SHARES, ids=str)
def test_certified_share_of_the_best_value(m: int, n: int, share: float, kind: str) -> None:
    w, g = orthonormal(gaussian(4, m, n)), spectra(m, n, kind)
    reached = value(g, stiefel_map(w, g)) / stiefel_dual_bound(w, g, 16)
    assert (reached <= 1 + 1e-6).all()
    assert reached.min() >= share, reached


def test_a_momentum_that_follows_the_weight_is_no_harder() -> None:
    """The average of noisy low-rank gradients, at a weight that moved along its own directions."""
    w, momentum = orthonormal(gaussian(96, 32)), torch.zeros(96, 32, dtype=torch.float64)
    signal = gaussian(96, 4, seed=1) @ gaussian(4, 32, seed=2) / 50
    for step in range(30):
        momentum = 0.95 * momentum + 0.05 * (signal + 0.1 * gaussian(96, 32, seed=3 + step))
        a = stiefel_map(w, momentum)
        if step % 10 == 9:
            assert_feasible(w, a)
            assert value(momentum, a) >= 0.95 * stiefel_dual_bound(w, momentum, 16)
        w = orthonormal(w - 0.02 * a)


def test_it_beats_project_then_polar() -> None:
    w, g = orthonormal(gaussian(96, 32)), gaussian(96, 32, seed=1)
    inner = w.mT @ g
    once = orthonormal(g - w @ (inner + inner.mT) / 2)
    inner = w.mT @ once
    once = once - w @ (inner + inner.mT) / 2
    once = once / torch.linalg.matrix_norm(once, ord=2)
    assert value(g, stiefel_map(w, g)) > 1.05 * value(g, once)


@pytest.mark.parametrize("shape", [(9, 4), (6, 6), (6, 4)], ids=str)
def test_zero_and_normal_gradients_give_zero(shape: tuple[int, int]) -> None:
    w = orthonormal(gaussian(*shape))
    symmetric = gaussian(shape[1], shape[1])
    normal = w @ (symmetric + symmetric.mT)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        zero = torch.zeros(shape, dtype=dtype)
        assert torch.equal(stiefel_map(w.to(dtype), zero), zero)
    for dtype in (torch.float32, torch.float64):
        x = orthonormal(w.to(dtype))
        assert torch.equal(stiefel_map(x, normal.to(dtype)), torch.zeros(shape, dtype=dtype))


def test_a_weight_that_drifted_still_knows_a_normal_gradient() -> None:
    """Columns orthonormal to 1e-4 only: one projection would leave 1e-4 of the gradient behind."""
    w = (orthonormal(gaussian(12, 5)) + 1e-4 * gaussian(12, 5, seed=1)).float()
    symmetric = gaussian(5, 5, seed=2).float()
    normal = w @ (symmetric + symmetric.mT)
    assert torch.equal(stiefel_map(w, normal), torch.zeros(12, 5))


def test_a_small_tangent_part_is_still_found() -> None:
    """Near a minimum the gradient is nearly normal: the direction follows what is left of it."""
    w, g = orthonormal(gaussian(12, 5)), gaussian(12, 5, seed=1)
    inner = w.mT @ g
    tangent = g - w @ (inner + inner.mT) / 2
    normal = g - tangent
    assert_close(
        stiefel_map(w, normal + 1e-8 * tangent), stiefel_map(w, tangent), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(12, 5), (6, 6), (7, 5)], ids=str)
def test_the_scale_and_the_radius_do_not_matter(shape: tuple[int, int], dtype: torch.dtype) -> None:
    w, g = orthonormal(gaussian(*shape)).to(dtype), gaussian(*shape, seed=1).to(dtype)
    a = stiefel_map(w, g)
    for scale in (1e-30, 1e30):
        assert_close(stiefel_map(w, scale * g), a, atol=2e-4, rtol=0)
        assert_close(stiefel_map(scale * w, scale * g), a, atol=2e-4, rtol=0)
    assert_close(stiefel_map(3.0 * w, g), a, atol=2e-4, rtol=0)


@pytest.mark.parametrize("shape", [(2, 3, 10, 4), (2, 3, 5, 5), (2, 3, 6, 4)], ids=str)
def test_a_batch_is_a_loop_and_arguments_are_left_alone(shape: tuple[int, ...]) -> None:
    w, g = orthonormal(gaussian(*shape)), gaussian(*shape, seed=1)
    g[0, 1] = 0
    before = w.clone(), g.clone()
    together = stiefel_map(w, g)
    assert torch.equal(w, before[0]) and torch.equal(g, before[1])
    for i in range(2):
        for j in range(3):
            assert_close(together[i, j], stiefel_map(w[i, j], g[i, j]))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)], ids=str
)
@pytest.mark.parametrize("shape", [(24, 8), (8, 8), (9, 8)], ids=str)
def test_lower_precision_is_near_float64(
    shape: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    w, g = orthonormal(gaussian(*shape)), gaussian(*shape, seed=1)
    low = stiefel_map(w.to(dtype), g.to(dtype))
    assert low.dtype == dtype
    assert_feasible(w, low, tolerance)
    high = stiefel_map(w, g)
    assert_close(value(g, low.double()), value(g, high), rtol=tolerance, atol=0)


def test_bad_shapes_get_one_clear_sentence() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 3\): transpose both"):
        stiefel_map(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(4, 2\)"):
        stiefel_map(torch.ones(3, 2), torch.ones(4, 2))


def test_cost() -> None:
    """A square weight costs one polar factor and little more; a tall one is linear in its height;
    one between has two decompositions more."""
    assert stiefel_map.locality is Locality.WHOLE
    square, one = stiefel_map.cost((64, 64)), polar.cost((64, 64), **POLAR)
    assert one.flops < square.flops < one.flops + 13 * 64**3
    costs = [stiefel_map.cost((m, 64)).flops for m in (128, 256, 384)]
    assert_close(costs[2] - costs[1], costs[1] - costs[0])
    assert costs[0] < stiefel_map.cost((127, 64)).flops < 1.7 * costs[0]
    assert stiefel_map.cost((5, 128, 64)) == stiefel_map.cost((5, 1, 128, 64))
    assert_close(stiefel_map.cost((5, 128, 64)).flops, 5 * stiefel_map.cost((128, 64)).flops)
