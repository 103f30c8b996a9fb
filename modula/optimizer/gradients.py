"""Checks of gradients before a step: dense, finite, and small enough to be squared."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from modula.optimizer.param_groups import DeclaredWeight

logger = logging.getLogger(__name__)

WithGradient = Sequence[tuple[DeclaredWeight, Tensor]]


class NonFiniteGradient(ArithmeticError):
    """A gradient holds an infinity or a NaN; nothing was changed."""


def check_dense(weights: WithGradient) -> None:
    """Raise ValueError for a sparse gradient."""
    for each, gradient in weights:
        if gradient.is_sparse:
            raise ValueError(f"{each.name} has a sparse gradient; use Embedding(sparse=False)")


def check_finite(weights: WithGradient) -> None:
    """Raise NonFiniteGradient that names the weights; waits for the device for each."""
    bad = [each.name for each, gradient in weights if not gradient.isfinite().all()]
    if bad:
        raise NonFiniteGradient(
            f"the gradient of {', '.join(bad)} is not finite; no weight and no state was changed. "
            'Lower the learning rate, or pass on_nonfinite="skip" to leave such steps out'
        )


def usable_gradients(
    weights: Iterable[DeclaredWeight], before: Collection[int] = ()
) -> tuple[dict[int, Tensor], set[int]]:
    """Gradients to step with, by id of their weight, and the ids of weights left out of the step.

    Left out are weights with a metric, which averages squares, and a gradient whose squares
    overflow: an infinity would stay in the average for good, and hold the weight still.  A warning
    names those that were not left out of the step `before` either.

    Raises ValueError for a sparse gradient, NonFiniteGradient for one that holds no number; waits
    for the device once where all is well.
    """
    found = [(each, grad) for each in weights if (grad := each.weight.grad) is not None]
    check_dense(found)
    gradients = {id(each.weight): gradient for each, gradient in found}
    # One wait for all weights; only where it says no are they looked at one by one.
    if squares_are_finite([*gradients.values()]):
        return gradients, set()
    check_finite(found)
    overflowing = {
        id(each.weight): each.name
        for each, gradient in found
        if each.declaration.has_metric and not squares_are_finite([gradient])
    }
    new = [name for weight, name in overflowing.items() if weight not in before]
    if new:
        logger.warning(
            "too large to be squared, and so left out of the step until it is smaller: "
            "the gradient of %s",
            ", ".join(new),
        )
    kept = {weight: each for weight, each in gradients.items() if weight not in overflowing}
    return kept, {*overflowing}


def squares_are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether the sum of squares of each is finite, and so each entry; in float32 or finer.

    Waits for each device once.
    """
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for x in tensors:
        # In the precision of state: squares of float16 overflow where those of state do not.
        dtype = torch.promote_types(x.dtype, torch.float32)
        alike.setdefault((x.device, dtype), []).append(x)
    lengths = [torch.stack(torch._foreach_norm(xs, 2, dtype)) for (_, dtype), xs in alike.items()]
    return all([bool(each.square().isfinite().all()) for each in lengths])
