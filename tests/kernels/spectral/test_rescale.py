"""Rescaled matrices keep their direction, and their squares stay in range."""

import pytest
import torch
from torch.testing import assert_close

from modula.kernels.spectral.rescale import LARGE, SMALL, rescale


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e6, 1e30])
def test_small_and_large_matrices_are_divided_by_their_largest_entry(size: float) -> None:
    x = torch.tensor([[[1.0, -4.0], [2.0, 0.0]], [[1.0, 1.0], [1.0, 2.0]]])
    out = rescale(size * x)
    assert_close(out, x / torch.tensor([4.0, 2.0])[:, None, None])
    assert out.square().square().isfinite().all()


def test_on_a_cpu_what_is_in_range_is_not_copied() -> None:
    x = torch.tensor([[1.0, 2 * SMALL], [LARGE / 2, 0.0]])
    assert rescale(x) is x


def test_zero_stays_zero() -> None:
    assert not rescale(torch.zeros(2, 3, 3)).any()
