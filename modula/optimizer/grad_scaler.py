"""Use of torch.amp.GradScaler, which scales statistics of the network along with the loss.

A GradScaler asks `_step_supports_amp_scaling`.  Where that is false it unscales every .grad, and
calls `step` unless one overflowed.  Where it is true it always calls `step`, between writing and
deleting two attributes: `grad_scale`, None where .grad is unscaled already, and `found_inf`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def scale_and_overflow_(
    optimizer: Any, loss_scale: Tensor | float | None, is_needed: bool
) -> tuple[Tensor | float, bool]:
    """By how much the losses of a step were scaled, and whether a gradient overflowed.

    Afterwards .grad is unscaled.

    loss_scale  what the user says; None for nothing
    is_needed   whether a statistic depends on it

    Raises ValueError if it is needed and nobody says it, or if gradients are float16.
    """
    if not hasattr(optimizer, "found_inf"):
        return 1.0 if loss_scale is None else loss_scale, False
    scale = optimizer.grad_scale  # None after scaler.unscale_, which divides .grad alone
    if scale is None and loss_scale is None and is_needed:
        _refuse(
            optimizer,
            "the gradients were unscaled before step, and nobody says by how much, which the "
            "statistics of layers need too: scaler.step(optimizer, loss_scale=scaler.get_scale())",
        )
    if scale is not None:
        _unscale_(optimizer, scale)
    if loss_scale is None:
        loss_scale = 1.0 if scale is None else scale
    return loss_scale, bool(optimizer.found_inf)


def _unscale_(optimizer: Any, scale: Tensor) -> None:
    gradients = [
        weight.grad
        for group in optimizer.param_groups
        for weight in group["params"]
        if weight.grad is not None
    ]
    if any(gradient.dtype == torch.float16 for gradient in gradients):
        _refuse(
            optimizer,
            "a GradScaler cannot unscale gradients in float16: keep the weights in float32, and "
            "run the forward pass under torch.autocast",
        )
    for device in {gradient.device for gradient in gradients}:
        here = [gradient for gradient in gradients if gradient.device == device]
        torch._foreach_div_(here, scale.to(device))


def _refuse(optimizer: Any, why: str) -> None:
    """A GradScaler deletes its two attributes after a step, but not after an error."""
    del optimizer.grad_scale, optimizer.found_inf
    raise ValueError(why)
