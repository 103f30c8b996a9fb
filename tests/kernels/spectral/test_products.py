"""Symmetric and skew products, and batches taken one by one, against the plain product."""

import pytest
import torch
from torch.testing import assert_close

from modula.kernels.spectral.products import (
    STRIP,
    add_product_,
    one_by_one,
    skew_product,
    symmetric_product,
)

SIZES = [3, 2 * STRIP + 7]  # whole, and in strips


@pytest.mark.parametrize("n", SIZES)
def test_symmetric_product(n: int) -> None:
    x, y = torch.randn(n, 5, dtype=torch.float64), torch.randn(n, n, dtype=torch.float64)
    add = y + y.mT
    assert_close(symmetric_product(x, x.mT), x @ x.mT)
    expected = 2 * x @ x.mT + 3 * add
    assert_close(symmetric_product(x, x.mT, add=add, beta=3.0, alpha=2.0), expected)


@pytest.mark.parametrize("n", SIZES)
def test_skew_product(n: int) -> None:
    x, y = torch.randn(n, 5, dtype=torch.float64), torch.randn(5, 5, dtype=torch.float64)
    product = skew_product(x @ (y - y.mT), x.mT)
    assert_close(product, x @ (y - y.mT) @ x.mT)
    assert torch.equal(product, -product.mT)


@pytest.mark.parametrize("shape", [(6, 4), (1, 6, 4), (2, 3, 6, 4), (2, 2 * STRIP + 1, 400)])
def test_one_by_one_is_the_batch(shape: tuple[int, ...]) -> None:
    x, y = torch.randn(shape), torch.randn(shape)
    assert torch.equal(one_by_one(torch.add, x, y), x + y)


def test_add_product_writes_to_its_first_argument() -> None:
    for batch in ((), (3,)):
        out, x, y = torch.randn(*batch, 4, 5), torch.randn(*batch, 4, 2), torch.randn(*batch, 2, 5)
        expected = out - 2 * x @ y
        assert add_product_(out, x, y, alpha=-2.0) is out
        assert_close(out, expected)
