"""What a step refuses: gradients that hold no number, have no dense values, or are too large."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from modula.duality import Declaration

logger = logging.getLogger(__name__)

Named = Sequence[tuple[str, Tensor]]  # names need not differ


class NonFiniteGradient(ArithmeticError):
    """A gradient holds an infinity or a NaN; nothing was changed."""


def check_dense(gradients: Named) -> None:
    """Raise ValueError for a sparse gradient."""
    for name, gradient in gradients:
        if gradient.is_sparse:
            raise ValueError(f"{name} has a sparse gradient; use Embedding(sparse=False)")


def check_finite(gradients: Named) -> None:
    """Raise NonFiniteGradient that names the weights; waits for the device for each."""
    bad = [name for name, gradient in gradients if not gradient.isfinite().all()]
    if bad:
        raise NonFiniteGradient(
            f"the gradient of {', '.join(bad)} is not finite; no weight and no state was changed. "
            'Lower the learning rate, or pass on_nonfinite="skip" to leave such steps out'
        )


def left_out(
    rows: Sequence[tuple[str, Tensor, Declaration]], before: Collection[int] = ()
) -> set[int]:
    """Ids of the weights, all with a gradient, that have no part in a step.

    A warning names them, apart from those that had no part in the step `before` either.
    They have a metric, which averages squares, and a gradient whose squares overflow: an infinity
    would stay in the average for good, and hold the weight still.

    Raises ValueError for a sparse gradient, NonFiniteGradient for one that holds no number; waits
    for the device once where all is well.
    """
    gradients = [(name, weight.grad) for name, weight, _ in rows if weight.grad is not None]
    check_dense(gradients)
    if squares_are_finite([gradient for _, gradient in gradients]):
        return set()
    check_finite(gradients)
    found = {}
    for (name, weight, declaration), (_, gradient) in zip(rows, gradients, strict=True):
        if declaration.has_metric and not squares_are_finite([gradient]):
            found[id(weight)] = name
    new = [name for weight, name in found.items() if weight not in before]
    if new:
        logger.warning(
            "too large to be squared, and so left out of the step until it is smaller: "
            "the gradient of %s",
            ", ".join(new),
        )
    return {*found}


def squares_are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether the sum of squares of each is finite, and so each entry; in float32 or finer.

    Waits for each device once.
    """
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for x in tensors:
        dtype = torch.promote_types(x.dtype, torch.float32)
        alike.setdefault((x.device, dtype), []).append(x)
    lengths = [torch.stack(torch._foreach_norm(xs, 2, dtype)) for (_, dtype), xs in alike.items()]
    return all([bool(each.square().isfinite().all()) for each in lengths])
