"""Gradients of a step: dense, finite, and small enough to be squared."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from modula.optimizer.param_groups import DeclaredWeight
from modula.statistics import dense

logger = logging.getLogger(__name__)

ROOM = 64.0  # how many times its gradient a momentum without a metric may grow to

WithGradient = Sequence[tuple[DeclaredWeight, Tensor]]


class NonFiniteGradient(ArithmeticError):
    """A gradient holds an infinity or a NaN; nothing was changed."""


def check_finite(weights: WithGradient) -> None:
    """Raise NonFiniteGradient that names the weights; waits for the device for each."""
    bad = [each.name for each, gradient in weights if not gradient.isfinite().all()]
    if bad:
        raise NonFiniteGradient(
            f"the gradient of {', '.join(bad)} is not finite; no weight and no state was changed. "
            'Lower the learning rate, or pass on_nonfinite="skip" to leave such steps out'
        )


def usable_gradients(
    weights: Iterable[DeclaredWeight],
    before: Collection[int] = (),
    kept: torch.dtype | None = None,
) -> tuple[dict[int, Tensor], set[int]]:
    """Gradients to step with, by id of their weight, and the ids of weights left out of the step.

    Left out are weights with a metric, which averages squares, and a gradient whose squares
    overflow: an infinity would stay in the average for good, and hold the weight still.  So are
    weights whose gradient is too large itself for state of fewer digits.  A warning names those
    that were not left out of the step `before` either.

    kept  dtype in which state outlives a step; None for that of the gradient, or float32

    Raises NonFiniteGradient for one that holds no number; waits for the device once where all is
    well.
    """
    found = [(each, dense(grad)) for each in weights if (grad := each.weight.grad) is not None]
    gradients = {id(each.weight): gradient for each, gradient in found}
    # One wait for all weights; only where it says no are they looked at one by one.
    if squares_are_finite([*gradients.values()], kept):
        return gradients, set()
    check_finite(found)
    overflowing = {
        id(each.weight): each.name for each, gradient in found if not _fits(each, gradient, kept)
    }
    new = [name for weight, name in overflowing.items() if weight not in before]
    if new:
        logger.warning(
            "too large to be squared or kept, and so left out of the step until it is smaller: "
            "the gradient of %s",
            ", ".join(new),
        )
    usable = {weight: each for weight, each in gradients.items() if weight not in overflowing}
    return usable, {*overflowing}


def _fits(each: DeclaredWeight, gradient: Tensor, kept: torch.dtype | None) -> bool:
    """Whether what is averaged stays finite: squares under a metric, else the gradient itself."""
    if each.declaration.has_metric:
        return squares_are_finite([gradient], kept)
    return kept is None or bool(gradient.abs().max() < torch.finfo(kept).max / ROOM)


def squares_are_finite(tensors: Sequence[Tensor], kept: torch.dtype | None = None) -> bool:
    """Whether the sum of squares of each is finite, and so each entry; in float32 or finer.

    kept  dtype in which it has to be finite too; None for no other

    Waits for each device once.
    """
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for x in tensors:
        # In the precision of state: squares of float16 overflow where those of state do not.
        dtype = torch.promote_types(x.dtype, torch.float32)
        alike.setdefault((x.device, dtype), []).append(x)
    lengths = [torch.stack(torch._foreach_norm(xs, 2, dtype)) for (_, dtype), xs in alike.items()]
    return all([bool((x.square() <= torch.finfo(kept or x.dtype).max).all()) for x in lengths])
