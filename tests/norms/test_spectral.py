"""Norms that see only singular values: Spectral and Nuclear."""

from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.testing import assert_close

from modula.norms.base import Norm
from modula.norms.operator import RMSToRMS
from modula.norms.spectral import Nuclear, Spectral
from modula.norms.vector import L2, RMS, Frobenius
from strategies import matrices, seeds

G = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)
H = torch.tensor([[3.0, 4.0], [0.0, 5.0], [1.0, 0.0]], dtype=torch.float64)
NUCLEAR_H = 6.715824 + 2.428519


def orthogonal(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, size, dtype=torch.float64, generator=generator)
    q: Tensor = torch.linalg.qr(x).Q
    return q


def test_spectral_oracle() -> None:
    polar = torch.tensor([[2.0, 1.0], [-1.0, 2.0]], dtype=torch.float64) / sqrt(5)
    for norm in (Spectral(), RMSToRMS()):
        assert_close(norm(G).item(), 3 * sqrt(5))
        assert_close(norm.dual(G).item(), 4 * sqrt(5))
        assert_close(norm.duality_map(G), polar)


def test_tall_oracle() -> None:
    polar = torch.tensor(
        [[0.830956, 0.464249], [-0.402307, 0.882042], [0.384267, -0.080461]], dtype=torch.float64
    )
    assert_close(Spectral()(H).item(), 6.715824, rtol=1e-6, atol=0)
    assert_close(Spectral().dual(H).item(), NUCLEAR_H, rtol=1e-6, atol=0)
    assert_close(Spectral().duality_map(H), polar, rtol=0, atol=1e-6)
    assert_close(RMSToRMS()(H).item(), sqrt(2 / 3) * 6.715824, rtol=1e-6, atol=0)
    assert_close(RMSToRMS().dual(H).item(), sqrt(3 / 2) * NUCLEAR_H, rtol=1e-6, atol=0)
    assert_close(RMSToRMS().duality_map(H), sqrt(3 / 2) * polar, rtol=0, atol=2e-6)


def test_nuclear_oracle() -> None:
    """u_1 v_1^T with u_1 = (1, 1) / sqrt 2 and v_1 = (1, 3) / sqrt 10."""
    rank_one = torch.tensor([[1.0, 3.0], [1.0, 3.0]], dtype=torch.float64) / sqrt(20)
    assert_close(Nuclear()(G).item(), 4 * sqrt(5))
    assert_close(Nuclear().dual(G).item(), 3 * sqrt(5))
    assert_close(Nuclear().duality_map(G), rank_one)


@pytest.mark.parametrize("norm", [Spectral(), Nuclear(), Frobenius(), RMSToRMS()], ids=str)
@settings(max_examples=15)
@given(x=matrices(), seed=seeds())
def test_rotations_pass_through(norm: Norm, x: Tensor, seed: int) -> None:
    left, right = orthogonal(x.shape[0], seed), orthogonal(x.shape[1], seed + 1)
    turned = left @ x @ right
    assert_close(norm(turned), norm(x))
    assert_close(norm.dual(turned), norm.dual(x))
    assert_close(norm.duality_map(turned), left @ norm.duality_map(x) @ right)


@settings(max_examples=15)
@given(x=matrices())
def test_spectral_and_nuclear_are_dual_and_frobenius_lies_between(x: Tensor) -> None:
    assert_close(Spectral().dual(x), Nuclear()(x))
    assert_close(Nuclear().dual(x), Spectral()(x))
    assert Spectral()(x) <= Frobenius()(x) * (1 + 1e-12) <= Nuclear()(x) * (1 + 2e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_rank_deficient_gives_a_partial_isometry_of_that_rank(
    rank: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(rank)
    left = torch.randn(7, rank, dtype=torch.float64, generator=generator)
    right = torch.randn(rank, 5, dtype=torch.float64, generator=generator)
    t = Spectral().duality_map((left @ right).to(dtype))
    expected = torch.tensor([1.0] * rank + [0.0] * (5 - rank), dtype=dtype)
    assert_close(torch.linalg.svdvals(t), expected, rtol=0, atol=1e-5)


def test_small_singular_values_are_not_shrunk() -> None:
    """No floor is added to a denominator: 1e-3 of 1, and 1e-12 of everything, still give one."""
    x = 1e-12 * torch.diag(torch.tensor([1.0, 1e-3]))
    assert_close(Spectral().duality_map(x), torch.eye(2))


@settings(max_examples=15)
@given(x=matrices())
def test_unit_radius_is_the_largest_singular_value_of_norm_one(x: Tensor) -> None:
    for norm in (Spectral(), RMSToRMS(), Spectral(L2(), RMS()), Spectral(RMS(), L2())):
        radius = norm.unit_radius(x.shape)
        assert_close(Spectral()(norm.duality_map(x)).item(), radius)
    assert_close(RMSToRMS().unit_radius(x.shape), sqrt(x.shape[0] / x.shape[1]))
    assert Spectral().unit_radius((5, *x.shape)) == 1
