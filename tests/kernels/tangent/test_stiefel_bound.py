"""stiefel_dual_bound: never below a feasible value, and equal to the best where that is known."""

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.tangent.stiefel_bound import stiefel_dual_bound
from strategies import batches, seeds


def orthonormal(x: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return u @ vh


def tangent_part(w: Tensor, x: Tensor) -> Tensor:
    inner = w.mT @ x
    return x - w @ (inner + inner.mT) / 2


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@settings(max_examples=40)
@given(g=batches(tall=True), seed=seeds())
def test_no_feasible_tangent_passes_it(g: Tensor, seed: int) -> None:
    """By brute force: random tangents and tangents near the gradient, scaled to the unit ball."""
    w = orthonormal(gaussian(*g.shape, seed=seed))
    guesses = gaussian(30, *g.shape, seed=seed + 1)
    near = orthonormal(g + 0.3 * guesses * g.norm() / guesses[0].norm())
    tangents = tangent_part(w, torch.cat([guesses, near]))
    sigma = torch.linalg.matrix_norm(tangents, ord=2)[..., None, None]
    values = (g * torch.where(sigma > 1e-9, tangents / sigma, 0.0)).sum((-2, -1))
    for iterations in (0, 2, 8):
        bound = stiefel_dual_bound(w, g, iterations)
        assert (values <= bound * (1 + 1e-9) + 1e-12 * g.norm()).all()


def test_it_is_at_most_the_nuclear_norm_of_the_tangent_part_and_falls() -> None:
    w, g = orthonormal(gaussian(4, 20, 9)), gaussian(4, 20, 9, seed=1)
    start = torch.linalg.matrix_norm(tangent_part(w, g), ord="nuc")
    assert_close(stiefel_dual_bound(w, g, 0), start)
    bounds = [stiefel_dual_bound(w, g, k) for k in (0, 1, 2, 4, 8, 16)]
    assert all(
        (later <= earlier * (1 + 1e-12)).all()
        for earlier, later in zip(bounds, bounds[1:], strict=False)
    )
    assert (bounds[-1] < 0.99 * start).all()


def test_three_by_two_by_hand() -> None:
    """W = [e1 e2], G = [[3, 4], [0, 5], [1, 2]]: the best value is sqrt(21)."""
    w = torch.eye(3, 2, dtype=torch.float64)
    g = torch.tensor([[3.0, 4.0], [0.0, 5.0], [1.0, 2.0]], dtype=torch.float64)
    best = torch.tensor(21.0, dtype=torch.float64).sqrt()
    assert_close(stiefel_dual_bound(w, g, 0), torch.tensor(5.0, dtype=torch.float64))
    assert_close(stiefel_dual_bound(w, g, 20), best)


def test_square_weights_are_solved_at_once() -> None:
    w, g = orthonormal(gaussian(3, 7, 7)), gaussian(3, 7, 7, seed=1)
    skew = w.mT @ g - g.mT @ w
    expected = torch.linalg.matrix_norm(skew, ord="nuc") / 2
    assert_close(stiefel_dual_bound(w, g, 0), expected)
    assert_close(stiefel_dual_bound(w, g, 5), expected)


def test_gradients_orthogonal_to_the_weight_are_free() -> None:
    """Then A = polar(G) is tangent, and the bound is the nuclear norm of G."""
    w = torch.eye(9, 4, dtype=torch.float64)
    g = gaussian(9, 4)
    g[:4] = 0
    assert_close(stiefel_dual_bound(w, g), torch.linalg.matrix_norm(g, ord="nuc"))


def test_the_radius_and_the_scale_do_not_matter() -> None:
    w, g = orthonormal(gaussian(12, 5)), gaussian(12, 5, seed=1)
    bound = stiefel_dual_bound(w, g)
    assert_close(stiefel_dual_bound(3.0 * w, g), bound)
    for scale in (1e-30, 1e30):
        assert_close(stiefel_dual_bound(w, scale * g) / scale, bound)


def test_zero_is_zero_and_a_batch_is_a_loop() -> None:
    w, g = orthonormal(gaussian(2, 3, 8, 5)), gaussian(2, 3, 8, 5, seed=1)
    g[0, 1] = 0
    before = w.clone(), g.clone()
    together = stiefel_dual_bound(w, g)
    assert_close(together[0, 1], torch.zeros((), dtype=torch.float64))
    for i in range(2):
        for j in range(3):
            assert_close(together[i, j], stiefel_dual_bound(w[i, j], g[i, j]))
    assert torch.equal(w, before[0]) and torch.equal(g, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_precision_is_computed_in_float64(dtype: torch.dtype) -> None:
    w, g = orthonormal(gaussian(12, 5)).to(dtype), gaussian(12, 5, seed=1).to(dtype)
    assert_close(stiefel_dual_bound(w, g), stiefel_dual_bound(w.double(), g.double()))
