"""Hooks that hand over a layer's input and output gradient during the backward pass."""

import weakref
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

See = Callable[[Tensor | None, Tensor], None]  # called with x (None if not kept) and dL/dy


class Handle(Protocol):
    """What removes a hook."""

    def remove(self) -> None:
        """Remove it."""


def observe(layer: nn.Module, see: See, keep_inputs: bool) -> Handle:
    """Call `see` for each backward pass through each call y = layer(x) that has a gradient.

    x waits as autograd's own saved tensors do: checkpointing and offloading apply to it, and it
    is freed with the graph.  A checkpointed call is seen once, since its repetition gets no
    gradient; for the same reason an evaluation is never seen.
    """

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Any:
        x = args[0] if args else next(iter(kwargs.values()))
        return cast(Any, _Observe).apply(y, x if keep_inputs else None, see)

    hidden = torch.compiler.disable(hook)
    return Hidden(layer, layer.register_forward_hook(hidden, with_kwargs=True))


class Hidden:
    """A hook on a module that copies and pickles of the module shall not have.

    A copy would feed what the original is measured by, and a hook cannot be pickled.
    """

    def __init__(self, module: nn.Module, handle: RemovableHandle) -> None:
        self._module, self._handle = weakref.ref(module), handle
        # Python asks an object, and not only its class, for what a copy or a pickle gets.
        known = module.__dict__.setdefault("__getstate__", _StateWithoutHooks(module))
        if isinstance(known, _StateWithoutHooks):
            known.hidden.add(handle.id)

    def remove(self) -> None:
        """Remove it, and all traces of it."""
        self._handle.remove()
        module = self._module()
        known = None if module is None else module.__dict__.get("__getstate__")
        if module is not None and isinstance(known, _StateWithoutHooks):
            known.hidden.discard(self._handle.id)
            if not known.hidden:
                del module.__dict__["__getstate__"]


class _StateWithoutHooks:
    """The `__getstate__` of one module: its attributes without the hooks of these ids."""

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)
        self.hidden: set[int] = set()

    def __call__(self) -> Any:
        module = self._module()
        state = cast(Any, type(module)).__getstate__(module)
        if not isinstance(state, dict):
            return state  # a class of its own ways
        found = {name: self._shown(name, value) for name, value in state.items()}
        return {name: value for name, value in found.items() if value is not self}

    def _shown(self, name: str, value: Any) -> Any:
        if "hooks" not in name or not isinstance(value, dict):
            return value
        return type(value)((key, hook) for key, hook in value.items() if key not in self.hidden)


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
