"""Arithmetic of other devices, on a CPU: who waits for it, and how it rounds what it multiplies."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Functions whose results the host has to see before it can go on.
WAITS = {
    *("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "numpy", "cpu"),
    *("nonzero", "masked_select", "unique", "equal", "allclose"),
    *("linalg_eigh", "linalg_eigvalsh", "linalg_svd", "linalg_cholesky", "linalg_inv", "cholesky"),
}
PRODUCTS = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1}


class Remote(Tensor):
    """A tensor that says it is on CUDA, and fails where somebody would wait for it."""

    is_cuda = True

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """As on the host, or AssertionError."""
        assert func.__name__ not in WAITS, f"{func.__name__} waits for the device"
        return super().__torch_function__(func, types, args, kwargs or {})


def remote(x: Tensor) -> Tensor:
    """The tensor as if it were on CUDA."""
    return x.as_subclass(Remote)


class RoundedProducts(TorchDispatchMode):
    """Matrix products inside round both of their arguments, and nothing else."""

    def __init__(self, rounded: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rounded = rounded

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The product of what is left of its arguments."""
        first = PRODUCTS.get(func._schema.name)
        if first is not None:
            x, y = (self.rounded(each) for each in args[first : first + 2])
            args = (*args[:first], x, y, *args[first + 2 :])
        return func(*args, **(kwargs or {}))


def to_bfloat16(x: Tensor) -> Tensor:
    """Float32 with the 8 bits of bfloat16."""
    return x.bfloat16().float()


def to_tf32(x: Tensor) -> Tensor:
    """Float32 with the 11 bits of TF32, to nearest even."""
    bits = x.contiguous().view(torch.int32)
    bits = bits + 0xFFF + ((bits >> 13) & 1)
    return (bits & ~0x1FFF).view(torch.float32)
