"""Norms of singular values: the same norm under two names."""

from math import inf

import pytest
import torch
from torch.testing import assert_close

from modula.norms import Frobenius, KyFan, KyFanDual, Norm, Nuclear, Schatten, Spectral

G = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)  # singular values 3 and 1, sqrt(5)


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
