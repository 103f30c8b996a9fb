"""An op: one piece of tensor arithmetic, written plainly and, where it pays, fused."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from importlib import import_module
from math import prod
from typing import Any

from torch import Tensor

Shape = Sequence[int]


class Locality(Enum):
    """How much of a weight one entry of the result depends on: what a sharded run has to move."""

    ELEMENTWISE = "elementwise"
    ROWS = "rows"
    COLUMNS = "columns"
    WHOLE = "whole"


@dataclass(frozen=True)
class Cost:
    """Work of one op on one weight: floating-point operations, and bytes read and written."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


def elementwise_cost(flops: float, passes: int) -> Callable[..., Cost]:
    """Cost of an op that does `flops` operations and `passes` reads or writes an entry."""

    def cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
        return Cost(flops * prod(shape), passes * prod(shape) * itemsize)

    return cost


@dataclass(frozen=True)
class Op:
    """Called like a function: the plain twin, or on CUDA tensors the fused one if there is one.

    plain     pure; any leading batch dims; valid in float64: this is the definition
    cost      cost(shape of one weight, itemsize, **options) -> Cost
    foreach   for elementwise ops: the same arithmetic over lists of tensors, first argument
              overwritten when `writes_first`, so that state and weights are updated in place
    fused_at  "module:function" of the fused twin, imported on first use: CPU hosts need no Triton
    """

    name: str
    plain: Callable[..., Tensor]
    cost: Callable[..., Cost]
    locality: Locality = Locality.WHOLE
    foreach: Callable[..., list[Tensor]] | None = None
    writes_first: bool = False
    fused_at: str | None = None

    @cached_property
    def fused(self) -> Callable[..., Tensor]:
        module, function = (self.fused_at or "").split(":")
        twin: Callable[..., Tensor] = getattr(import_module(module), function)
        return twin

    def __call__(self, *tensors: Tensor, **options: Any) -> Tensor:
        twin = self.fused if self.fused_at and tensors[0].is_cuda else self.plain
        return twin(*tensors, **options)


def check_matrix(x: Tensor, name: str) -> None:
    """Raise ValueError unless x is a floating-point matrix or a batch of them."""
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(
            f"{name} needs a floating-point matrix (..., out, in); got shape {tuple(x.shape)}, "
            f"{x.dtype}"
        )
