"""Float32 that stays float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, matrix products of float32 on CUDA keep all its bits, whatever is set outside.

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
