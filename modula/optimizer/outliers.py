"""Gradients far longer than usual, shortened before anything averages them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

USUAL = "usual_gradient"  # in the first of param_groups: what is remembered of lengths so far
BETA, MOST = 0.99, 4.0  # the memory, and how many times the usual length a gradient may have

Gradients = Mapping[int, Tensor]  # by id of the weight


def without_outlier(gradients: Gradients, usual: Tensor | None) -> tuple[Gradients, Tensor | None]:
    """The gradients of a step, together no longer than MOST times what is usual, and what is now.

    Clipping by the norm of all gradients, at a bound from their own history: no loss has one that
    suits it from the first step to the last.  On an accelerator nobody waits.
    """
    if not gradients:
        return gradients, usual
    each = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients.values()]
    length = torch.stack([one.to(each[0].device) for one in each]).norm()
    if usual is not None:
        usual = usual.to(length.device)
    # A length of zero says nothing, nor does one beyond float64.
    length = torch.where(length.isfinite(), length, 0.0)
    share = torch.where(length > 0, limited(length, usual) / length, 1.0)
    after = usual_size(length, usual)
    if share.device.type == "cpu" and share == 1:
        return gradients, after
    return {weight: g * share.to(g.device, g.dtype) for weight, g in gradients.items()}, after


def usual_size(number: Tensor, before: Tensor | None) -> Tensor:
    """The geometric mean of a number over steps, which hardly sees a single large one.

        mean log n <- mean log n + w (log n - mean log n),   w = (1 - beta) / (1 - beta^steps)

    as (mean log n, steps): (2,), float64; a step with n = 0 is left out: it saw no gradient.

    before  what this was after the step before; None for the first step
    """
    before = torch.zeros(2, dtype=torch.float64, device=number.device) if before is None else before
    mean, steps = before.unbind()
    newest = (1 - BETA) / (1 - BETA ** (steps + 1))
    after = torch.stack([mean + newest * (number.log() - mean), steps + 1])
    return torch.where(number > 0, after, before)


def limited(number: Tensor, before: Tensor | None) -> Tensor:
    """The number, but at most MOST times its geometric mean, once there is one."""
    if before is None:
        return number
    mean, steps = before.unbind()
    return torch.where(steps > 0, torch.minimum(number, MOST * mean.exp()), number)
