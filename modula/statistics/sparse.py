"""Gradients that come without their zeros, as those of Embedding(sparse=True)."""

import torch
from torch import Tensor


def dense(gradient: Tensor) -> Tensor:
    """The gradient with all of its zeros.

    Averages of all rows decay in every step, so that a step reads and writes each of them anyway.
    """
    return gradient if gradient.layout == torch.strided else gradient.to_dense()
