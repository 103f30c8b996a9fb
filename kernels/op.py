"""Ops: pieces of tensor arithmetic with a plain twin and, where it pays, a fused one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from importlib import import_module
from math import prod
from typing import Any, NamedTuple

from torch import Tensor

Shape = Sequence[int]
Twin = Callable[..., Any]  # what a twin takes and gives: tensors, or lists of them


class Locality(Enum):
    """Which entries of a weight one entry of the result depends on: what sharding must move."""

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


class Error(NamedTuple):
    """How far an op's matrices may be from what it stands for.

    size   of the error of a singular value, relative; none is too large by more
    above  the share of the largest from which on none is too small by more
    """

    size: float = 0.0
    above: float = 0.0


@dataclass(frozen=True)
class Op:
    """One piece of tensor arithmetic, called like a function on tensors or lists of them.

    plain     pure; any leading batch dims; valid in float64: this is the definition
    cost      cost(shape of one weight, itemsize, **options) -> Cost
    error     error(the same) -> Error, for singular values by polynomials; None: rounding alone
    foreach   for elementwise ops: the same arithmetic over lists of tensors, first argument
              overwritten when `writes_first`, so that state and weights are updated in place
    fused_at  "module:function" of the fused twin, imported on first use: CPU hosts need no Triton.
              It takes lists if there is a foreach twin, in place of which it runs
    can_fail  whether it may raise an error for tensors of the right shapes, as decompositions do
              and what users write; not so arithmetic and products, which memory alone limits
    """

    name: str
    plain: Callable[..., Tensor]
    cost: Callable[..., Cost]
    locality: Locality = Locality.WHOLE
    foreach: Callable[..., list[Tensor]] | None = None
    writes_first: bool = False
    fused_at: str | None = None
    error: Callable[..., Error] | None = None
    can_fail: bool = True

    @cached_property
    def fused(self) -> Twin:
        """The fused twin, imported."""
        module, function = (self.fused_at or "").split(":")
        twin: Twin = getattr(import_module(module), function)
        return twin

    def twin(self, on_cuda: bool, lists: bool) -> Twin:
        """The fused twin on CUDA tensors where there is one, else the foreach or the plain one."""
        if self.fused_at and on_cuda and lists == (self.foreach is not None):
            return self.fused
        return self.foreach if lists and self.foreach else self.plain

    def __call__(self, *reads: Any, **options: Any) -> Any:
        """The result of the twin for these tensors, or lists of tensors."""
        first, lists = reads[0], isinstance(reads[0], list)
        return self.twin((first[0] if lists else first).is_cuda, lists)(*reads, **options)


def elementwise(
    name: str,
    plain: Callable[..., Tensor],
    foreach: Callable[..., list[Tensor]],
    *,
    flops: float,
    passes: int,
    writes_first: bool = False,
) -> Op:
    """An elementwise op with this many operations and memory passes per entry."""
    cost = elementwise_cost(flops, passes)
    return Op(name, plain, cost, Locality.ELEMENTWISE, foreach, writes_first, can_fail=False)


def check_matrix(x: Tensor, name: str) -> None:
    """Raise ValueError unless x is a floating-point matrix or a batch of them."""
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(
            f"{name} needs a floating-point matrix (..., out, in); got shape {tuple(x.shape)}, "
            f"{x.dtype}"
        )
