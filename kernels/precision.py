"""Full float32 precision of matrix products, whatever TF32 setting is on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Context in which float32 matrix products on CUDA keep all bits, whatever is set outside.

    Networks are often trained with TF32, which rounds what is multiplied to 10 bits.  An inverse
    root of a badly conditioned matrix has none of them left.
    """
    products = torch.backends.cuda.matmul
    outside = products.fp32_precision
    products.fp32_precision = "ieee"
    try:
        yield
    finally:
        products.fp32_precision = outside
