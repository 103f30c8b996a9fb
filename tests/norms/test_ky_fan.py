"""Ky Fan norms: hand-computed values and the ranks they are refused for."""

from math import sqrt

import pytest
import torch
from torch.testing import assert_close

from modula.norms import KyFan, KyFanDual, Norm

G = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)  # singular values 3 and 1, sqrt(5)
STEPS = torch.diag(torch.tensor([3.0, 2.0, 2.0], dtype=torch.float64))


def test_ky_fan_by_hand() -> None:
    assert_close(KyFan(1).dual(G).item(), 4 * sqrt(5))
    assert_close(KyFan(2).dual(G).item(), 3 * sqrt(5))
    assert_close(KyFan(2).dual(STEPS).item(), 3.5)
    assert_close(KyFan(2).duality_map(STEPS), torch.eye(3, dtype=torch.float64) / 2)
    assert_close(KyFan(2)(STEPS).item(), 5.0)
    assert_close(KyFanDual(2).dual(STEPS).item(), 5.0)
    top_two = KyFanDual(2).duality_map(STEPS + torch.diag(torch.tensor([0.0, 0.5, 0.0])))
    assert_close(top_two, torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)))


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
