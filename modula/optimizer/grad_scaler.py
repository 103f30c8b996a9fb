"""Use of torch.amp.GradScaler, which scales statistics of the network along with the loss.

A GradScaler asks `_step_supports_amp_scaling`.  Where that is false it unscales every .grad, and
calls `step` unless one overflowed.  Where it is true it always calls `step`, between writing and
deleting two attributes: `grad_scale`, None where .grad is unscaled already, and `found_inf`.  Then
the scale is asked of the GradScaler itself, which nothing but the frame that it asks from shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import currentframe
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.amp import GradScaler


def noting_who_asks_(optimizer: Any, answer: bool) -> bool:
    """The answer to a GradScaler's question, which the optimizer's attribute hands on.

    Remembers the GradScaler, or that another asked, for the step that comes next.
    """
    frame = currentframe()
    asking = frame and frame.f_back and frame.f_back.f_back
    scaler = asking.f_locals.get("self") if asking else None
    optimizer._scaler = ref(scaler) if isinstance(scaler, GradScaler) else None
    return answer


@contextmanager
def unscaled(
    optimizer: Any, loss_scale: Tensor | float | None, is_needed: bool
) -> Iterator[tuple[Tensor | float, bool]]:
    """By how much the losses of a step were scaled, and whether a gradient overflowed.

    Inside and afterwards .grad is unscaled.  An error brings it back, and deletes both attributes,
    which a GradScaler does not: the next step would take them for its own.

    loss_scale  what the user says; None for nothing
    is_needed   whether a statistic depends on it

    Raises ValueError if it is needed and nobody says it, or if gradients are float16.
    """
    if not hasattr(optimizer, "found_inf"):
        yield 1.0 if loss_scale is None else loss_scale, False
        return
    scale = optimizer.grad_scale  # None after scaler.unscale_, which divides .grad alone
    gradients: list[Tensor] = []
    try:
        if loss_scale is None:
            loss_scale = _found(optimizer, scale, is_needed)
        if scale is not None:
            gradients = _gradients(optimizer)
            _by_device_(torch._foreach_div_, gradients, scale)
        yield loss_scale, bool(optimizer.found_inf)
    except BaseException:
        # Bit by bit, as a GradScaler's scale is a power of two.
        _by_device_(torch._foreach_mul_, gradients, scale)
        del optimizer.grad_scale, optimizer.found_inf
        raise


def _found(optimizer: Any, scale: Tensor | None, is_needed: bool) -> Tensor | float:
    """The scale, of the GradScaler that asked last if it is not handed on."""
    known = getattr(optimizer, "_scaler", None)
    scaler = known and known()
    if scale is None and scaler is not None and is_needed:
        return float(scaler.get_scale())
    if scale is None and is_needed:
        raise ValueError(
            "the gradients were unscaled before step, and nobody says by how much, which the "
            "statistics of layers need too: scaler.step(optimizer, loss_scale=scaler.get_scale())"
        )
    return 1.0 if scale is None else scale


def _gradients(optimizer: Any) -> list[Tensor]:
    """All that are there; ValueError for float16."""
    weights = (weight for group in optimizer.param_groups for weight in group["params"])
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if any(gradient.dtype == torch.float16 for gradient in gradients):
        raise ValueError(
            "a GradScaler cannot unscale gradients in float16: keep the weights in float32, and "
            "run the forward pass under torch.autocast"
        )
    return gradients


def _by_device_(op: Callable[..., Any], gradients: Sequence[Tensor], scale: Tensor | None) -> None:
    for device in {gradient.device for gradient in gradients}:
        assert scale is not None
        op([gradient for gradient in gradients if gradient.device == device], scale.to(device))
