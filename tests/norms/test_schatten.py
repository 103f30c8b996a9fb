"""Schatten norms: hand-computed values, extreme scales, bad arguments."""

from math import sqrt

import pytest
import torch
from torch.testing import assert_close

from modula.norms import Schatten

G = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)  # singular values 3 and 1, sqrt(5)


def test_schatten_3_by_hand() -> None:
    steepest = torch.tensor([[0.5761, 0.5109], [-0.1544, 0.7543]], dtype=torch.float64)
    assert_close(Schatten(3).duality_map(G), steepest, rtol=0, atol=5e-5)
    assert_close(Schatten(3).dual(G).item(), 7.5434, rtol=0, atol=5e-5)
    assert_close(Schatten(3)(G).item(), sqrt(5) * 28 ** (1 / 3))


@pytest.mark.parametrize("p", [1.0, 1.001, 1.5, 2, 10, 1e6])
def test_a_large_matrix_neither_overflows_nor_vanishes(p: float) -> None:
    x = torch.ones(300, 200)
    assert_close(Schatten(p)(x).item(), sqrt(300 * 200), rtol=1e-3, atol=0.0)
    assert_close(Schatten(p).dual(x).item(), sqrt(300 * 200), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("p", [0.5, 0, -1])
def test_p_below_one_is_no_norm(p: float) -> None:
    with pytest.raises(ValueError, match=r"is no norm: p must be 1 or more; Schatten\(1\) is Nuc"):
        Schatten(p)
