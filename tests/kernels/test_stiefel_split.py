"""Two ways to the same coefficients, both held to the laws of a direction and to a certificate."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.gram_irls import stiefel_dual_bound
from modula.kernels.stiefel_split import BEND, CAP, by_eigenvectors, by_products
from strategies import batches, seeds

Coefficients = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
both = pytest.mark.parametrize("coefficients", [by_eigenvectors, by_products])


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def parts(m: int, n: int) -> tuple[Tensor, Tensor]:
    """E, normal to W, and B, the skew part of W^T G, for W = [I; 0]."""
    g = gaussian(4, m, n)
    skew, rest = (g[:, :n] - g[:, :n].mT) / 2, g.clone()
    rest[:, :n] = 0
    return rest, skew


def sigma(x: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(x, ord=2)


@both
@settings(max_examples=25)
@given(rest=batches(tall=True), seed=seeds())
def test_both_parts_together_are_no_longer_than_one(
    coefficients: Coefficients, rest: Tensor, seed: int
) -> None:
    n = rest.shape[-1]
    noise = gaussian(*rest.shape[:-2], n, n, seed=seed) * rest.norm() / n
    floor = torch.zeros_like(noise[..., :1, :1])
    normal, omega = coefficients(rest.mT @ rest, noise - noise.mT, floor)
    assert_close(omega, -omega.mT)
    direction = torch.cat([rest @ normal, omega], -2)
    assert direction.isfinite().all()
    assert (sigma(direction) <= 1 + 1e-7).all()
    assert ((rest * (rest @ normal)).sum((-2, -1)) >= 0).all()


@both
@pytest.mark.parametrize(("m", "share"), [(32, 0.92), (40, 0.96), (48, 0.975), (64, 0.985)])
def test_certified_share_of_the_best_value(
    coefficients: Coefficients, m: int, share: float
) -> None:
    rest, skew = parts(m, 16)
    floor = torch.zeros(4, 1, 1, dtype=torch.float64)
    normal, omega = coefficients(rest.mT @ rest, skew, floor)
    reached = (rest * (rest @ normal)).sum((-2, -1)) + (skew * omega).sum((-2, -1))
    weight, gradient = torch.eye(m, 16, dtype=torch.float64).expand(4, m, 16), rest.clone()
    gradient[:, :16] = skew
    bound = stiefel_dual_bound(weight, gradient, 16)
    assert (reached >= share * bound).all() and (reached <= bound).all()


@both
def test_without_a_part_along_the_weight_it_is_the_polar_factor(
    coefficients: Coefficients,
) -> None:
    rest, skew = parts(40, 8)
    normal, omega = coefficients(rest.mT @ rest, 0 * skew, torch.zeros(4, 1, 1, dtype=rest.dtype))
    u, _, vh = torch.linalg.svd(rest, full_matrices=False)
    assert_close(rest @ normal, u @ vh, atol=1e-6, rtol=0)
    assert_close(omega, torch.zeros_like(omega))


@both
def test_nothing_gives_nothing(coefficients: Coefficients) -> None:
    zero = torch.zeros(2, 5, 5)
    for x in coefficients(zero, zero, zero[:, :1, :1]):
        assert x.isfinite().all()


def test_the_polynomial_stays_below_the_root() -> None:
    y = torch.linspace(0, CAP, 1001, dtype=torch.float64)
    below = (1 - y).sqrt() - (1 - y / 2 - BEND * y * y)
    assert below.min() >= -1e-12 and below.max() <= 0.02
