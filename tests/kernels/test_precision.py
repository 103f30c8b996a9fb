"""Inside full_precision float32 products keep their bits; outside is what it was."""

import pytest
import torch

from modula.kernels.precision import full_precision


def test_products_are_exact_inside_and_what_they_were_outside() -> None:
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    products.fp32_precision = "tf32"
    try:
        with full_precision():
            assert products.fp32_precision == "ieee"
        assert products.fp32_precision == "tf32"
        with pytest.raises(KeyError), full_precision():
            raise KeyError
        assert products.fp32_precision == "tf32"
    finally:
        products.fp32_precision = before
