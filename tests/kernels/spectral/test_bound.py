"""spectral_bound against the largest singular value."""

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.spectral.bound import spectral_bound
from strategies import batches


@given(x=batches())
def test_it_is_above_sigma_max_and_as_tight_as_it_says(x: Tensor) -> None:
    exact = torch.linalg.matrix_norm(x, ord=2)
    for squarings in (0, 3, 16):
        ratio = spectral_bound(x, squarings=squarings) / exact
        assert (ratio >= 1 - 1e-12).all()
        assert (ratio <= min(x.shape[-2:]) ** 2.0 ** -(squarings + 2) + 1e-12).all()


def test_orthonormal_columns_are_the_worst_case() -> None:
    eye = torch.eye(64, 16, dtype=torch.float64)
    expected = torch.tensor(16 ** (1 / 8), dtype=torch.float64)
    assert_close(spectral_bound(eye, squarings=1), expected)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_every_scale_in_float32(scale: float) -> None:
    x = scale * torch.randn(3, 40, 20, generator=torch.Generator().manual_seed(0))
    assert_close(spectral_bound(x), torch.linalg.matrix_norm(x, ord=2), rtol=1e-3, atol=0)


def test_half_precision_is_computed_in_float32() -> None:
    x = torch.randn(40, 20, generator=torch.Generator().manual_seed(0)).bfloat16()
    bound = spectral_bound(x)
    assert bound.dtype == torch.bfloat16
    assert_close(bound.double(), torch.linalg.matrix_norm(x.double(), ord=2), rtol=8e-3, atol=0)
