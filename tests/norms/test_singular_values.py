"""Schatten and Ky Fan norms: hand-computed values, other names of known norms, bad arguments."""

from math import inf, sqrt

import pytest
import torch
from torch.testing import assert_close

from modula.norms import Frobenius, KyFan, KyFanDual, Norm, Nuclear, Schatten, Spectral

G = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)  # singular values 3 and 1, sqrt(5)
STEPS = torch.diag(torch.tensor([3.0, 2.0, 2.0], dtype=torch.float64))


def test_schatten_3_by_hand() -> None:
    steepest = torch.tensor([[0.5761, 0.5109], [-0.1544, 0.7543]], dtype=torch.float64)
    assert_close(Schatten(3).duality_map(G), steepest, rtol=0, atol=5e-5)
    assert_close(Schatten(3).dual(G).item(), 7.5434, rtol=0, atol=5e-5)
    assert_close(Schatten(3)(G).item(), sqrt(5) * 28 ** (1 / 3))


def test_ky_fan_by_hand() -> None:
    assert_close(KyFan(1).dual(G).item(), 4 * sqrt(5))
    assert_close(KyFan(2).dual(G).item(), 3 * sqrt(5))
    assert_close(KyFan(2).dual(STEPS).item(), 3.5)
    assert_close(KyFan(2).duality_map(STEPS), torch.eye(3, dtype=torch.float64) / 2)
    assert_close(KyFan(2)(STEPS).item(), 5.0)
    assert_close(KyFanDual(2).dual(STEPS).item(), 5.0)
    top_two = KyFanDual(2).duality_map(STEPS + torch.diag(torch.tensor([0.0, 0.5, 0.0])))
    assert_close(top_two, torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)))


@pytest.mark.parametrize(
    ("norm", "same"),
    [
        (Schatten(1), Nuclear()),
        (Schatten(2), Frobenius()),
        (Schatten(inf), Spectral()),
        (KyFan(1), Spectral()),
        (KyFan(2), Nuclear()),
        (KyFanDual(1), Nuclear()),
        (KyFanDual(2), Spectral()),
    ],
    ids=str,
)
def test_known_by_two_names(norm: Norm, same: Norm) -> None:
    assert_close(norm(G), same(G))
    assert_close(norm.dual(G), same.dual(G))
    assert_close(norm.duality_map(G), same.duality_map(G))


@pytest.mark.parametrize("p", [1.0, 1.001, 1.5, 2, 10, 1e6])
def test_a_large_matrix_neither_overflows_nor_vanishes(p: float) -> None:
    x = torch.ones(300, 200)
    assert_close(Schatten(p)(x).item(), sqrt(300 * 200), rtol=1e-3, atol=0.0)
    assert_close(Schatten(p).dual(x).item(), sqrt(300 * 200), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("p", [0.5, 0, -1])
def test_p_below_one_is_no_norm(p: float) -> None:
    with pytest.raises(ValueError, match=r"is no norm: p must be 1 or more; Schatten\(1\) is Nuc"):
        Schatten(p)


@pytest.mark.parametrize("k", [0, -1, 1.5])
def test_k_counts(k: int) -> None:
    for kind in (KyFan, KyFanDual):
        with pytest.raises(ValueError, match="k counts singular values, a whole number from 1 up"):
            kind(k)


@pytest.mark.parametrize("norm", [KyFan(3), KyFanDual(3)], ids=str)
def test_k_above_the_rank_is_refused(norm: Norm) -> None:
    x = torch.ones(4, 2)
    for measure in (norm, norm.dual, norm.duality_map, norm.project):
        with pytest.raises(ValueError, match="3 singular values; a matrix of 4 x 2 has 2: use k"):
            measure(x)
