"""What a step refuses: gradients that hold no number, or have no dense values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


Named = Sequence[tuple[str, Tensor]]  # names need not differ


class NonFiniteGradient(ArithmeticError):
    """A gradient holds an infinity or a NaN; nothing was changed."""


def check_dense(gradients: Named) -> None:
    """Raise ValueError for a sparse gradient."""
    for name, gradient in gradients:
        if gradient.is_sparse:
            raise ValueError(f"{name} has a sparse gradient; use Embedding(sparse=False)")


def check_finite(gradients: Named) -> None:
    """Raise NonFiniteGradient that names the weights; waits for the device once."""
    if not gradients or all_finite([gradient for _, gradient in gradients]):
        return
    bad = [name for name, gradient in gradients if not gradient.isfinite().all()]
    if bad:  # else only a sum overflowed
        raise NonFiniteGradient(
            f"the gradient of {', '.join(bad)} is not finite; no weight and no state was changed. "
            'Lower the learning rate, or pass on_nonfinite="skip" to leave such steps out'
        )


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no entry is an infinity or a NaN; waits for the device once.

    A sum is finite unless an entry is not, or it overflows.
    """
    return bool(torch.stack([x.sum().float() for x in tensors]).isfinite().all())
