"""Hooks that hand over a layer's input and output gradient during the backward pass."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

See = Callable[[Tensor | None, Tensor], None]  # called with x (None if not kept) and dL/dy


def observe(layer: nn.Module, see: See, keep_inputs: bool) -> RemovableHandle:
    """Call `see` for each backward pass through each call y = layer(x) that has a gradient.

    x waits as autograd's own saved tensors do: checkpointing and offloading apply to it, and it
    is freed with the graph.  A checkpointed call is seen once, since its repetition gets no
    gradient; for the same reason an evaluation is never seen.
    """

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Any:
        x = args[0] if args else next(iter(kwargs.values()))
        return cast(Any, _Observe).apply(y, x if keep_inputs else None, see)

    return layer.register_forward_hook(torch.compiler.disable(hook), with_kwargs=True)


class _Observe(torch.autograd.Function):
    """y -> y, and its gradient is seen on the way back.

    y is marked as written in place, so that an activation may write to it again: into a view of
    it, which a full backward hook returns, it could not.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor | None, see: See) -> Tensor:
        ctx.mark_dirty(y)
        ctx.save_for_backward(x)
        ctx.see = see
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        ctx.see(x, gradient)
        return gradient, None, None
