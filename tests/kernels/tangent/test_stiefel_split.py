"""Three ways to the same coefficients, held to the laws of a direction and to a certificate."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.tangent import stiefel_split
from modula.kernels.tangent.stiefel import stiefel_map
from modula.kernels.tangent.stiefel_bound import stiefel_dual_bound
from modula.kernels.tangent.stiefel_split import (
    BEND,
    FIRST,
    LONGEST,
    SECOND,
    by_eigenvectors,
    by_roots,
)
from strategies import batches, seeds

Coefficients = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def by_roots_of_products(gram: Tensor, skew: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """As on an accelerator."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stiefel_split, "_by_eigenvalues", stiefel_split._by_products)
        return by_roots(gram, skew, floor)


WAYS = [by_eigenvectors, by_roots, by_roots_of_products]
every = pytest.mark.parametrize("coefficients", WAYS)


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


@every
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
    assert (sigma(direction) <= 1 + 1e-6).all()
    assert ((rest * (rest @ normal)).sum((-2, -1)) >= 0).all()


@every
@pytest.mark.parametrize(("m", "share"), [(32, 0.97), (40, 0.99), (48, 0.995), (64, 0.998)])
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


@every
def test_without_a_part_along_the_weight_it_is_the_polar_factor(
    coefficients: Coefficients,
) -> None:
    rest, skew = parts(40, 8)
    normal, omega = coefficients(rest.mT @ rest, 0 * skew, torch.zeros(4, 1, 1, dtype=rest.dtype))
    u, _, vh = torch.linalg.svd(rest, full_matrices=False)
    assert_close(rest @ normal, u @ vh, atol=1e-6, rtol=0)
    assert_close(omega, torch.zeros_like(omega))


@every
def test_nothing_gives_nothing(coefficients: Coefficients) -> None:
    zero = torch.zeros(2, 5, 5)
    for x in coefficients(zero, zero, zero[:, :1, :1]):
        assert x.isfinite().all()


def test_what_omega_and_t_leave_of_each_other() -> None:
    """Feasible for every singular value of Omega up to LONGEST^(1/2), and tight for the usual."""
    y = torch.linspace(0, LONGEST, 60_001, dtype=torch.float64)
    t = 1 - FIRST * y + SECOND * y * y
    room = 1 - y * (1 - BEND * y) ** 2
    assert (t * t <= room + 1e-12).all()
    usual = y <= 1
    assert (room.sqrt() - t)[usual].max() <= 0.01
    assert (y * (1 - BEND * y) ** 2).max() <= 0.85


@every
def test_long_singular_values_cost_the_others_little(coefficients: Coefficients) -> None:
    """One pair of directions in which C is nothing and B is much, among sixteen."""
    rest, skew = parts(64, 16)
    floor = torch.zeros(4, 1, 1, dtype=torch.float64)
    rest[..., 0] *= 1e-3
    normal, omega = coefficients(rest.mT @ rest, skew, floor)
    gain = (rest * (rest @ normal)).sum((-2, -1)) + (skew * omega).sum((-2, -1))
    weight, gradient = torch.eye(64, 16, dtype=torch.float64).expand(4, 64, 16), rest.clone()
    gradient[:, :16] = skew
    assert (gain >= 0.996 * stiefel_dual_bound(weight, gradient, 16)).all()


@pytest.mark.parametrize("shape", [(40, 10), (33, 8), (2, 60, 20)], ids=str)
def test_a_normal_part_that_is_never_formed_gives_the_same(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    w, g = torch.linalg.qr(gaussian(*shape, seed=3).float())[0], gaussian(*shape, seed=4).float()
    spared = stiefel_map(3.0 * w, g)
    monkeypatch.setattr("modula.kernels.tangent.stiefel_split._is_mostly_normal", lambda *_: False)
    formed = stiefel_map(3.0 * w, g)
    assert not torch.equal(spared, formed)  # it was another way
    assert_close(spared, formed, atol=2e-6, rtol=0)


def test_a_small_normal_part_is_formed() -> None:
    """What G^T G - P^T P would lose: here E is some 3e-3 of G."""
    w = torch.linalg.qr(gaussian(40, 10, seed=3).float())[0]
    draw = gaussian(40, 10, seed=4).float()
    part = draw - w @ (w.mT @ draw)
    g = w @ gaussian(10, 10, seed=5).float() + 3e-3 * part
    exact = stiefel_map(w.double(), g.double())
    assert_close(stiefel_map(w, g).double(), exact, atol=1e-3, rtol=0)
