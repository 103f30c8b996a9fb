"""What a metric becomes in a program: lines that estimate it, and the coordinates it gives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, singledispatch
from typing import Any, Protocol

from torch import Tensor

from modula.duality.program.line import Line, line
from modula.duality.program.slot import Slots
from modula.kernels.op import Cost, Op, Shape
from modula.norms.blocks import BlockView
from modula.norms.maps.linear import Inverse, LinearChain, LinearMap, OnBlocks
from modula.norms.metrics.base import First, Metric


class Build(Protocol):
    """Makes a map from the tensors that it was declared to read.

    A frozen dataclass: equal ones share their ops, and so their weights' batch.
    """

    def __hash__(self) -> int:
        """Equal builds hash alike."""

    def __call__(self, *tensors: Tensor) -> LinearMap:
        """The map."""

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application to a weight of this shape."""


@dataclass(frozen=True)
class Applied:
    """A map of the chain, known once the tensors of these names are.

    build  makes the map out of them: equal builds give equal programs
    reads  names of state
    shape  of what it is applied to; None for the weight itself
    """

    build: Build
    reads: tuple[str, ...]
    shape: tuple[int, ...] | None = None

    def down(self, read: str, result: str) -> Line:
        """result = C^-T read: how a gradient is seen in these coordinates."""
        return replace(line(result, _ops(self.build)[0], read, *self.reads), shape=self.shape)

    def up(self, read: str, result: str) -> Line:
        """result = C^-1 read: how a direction comes back."""
        return replace(line(result, _ops(self.build)[1], read, *self.reads), shape=self.shape)


@cache
def _ops(build: Build) -> tuple[Op, Op]:
    def into(x: Tensor, *tensors: Tensor) -> Tensor:
        """C^-T x"""
        return build(*tensors).inverse_transpose(x)

    def out_of(x: Tensor, *tensors: Tensor) -> Tensor:
        """C^-1 x"""
        return build(*tensors).inverse(x)

    def cost(shape: Shape, itemsize: int = 4, **options: object) -> Cost:
        return build.cost(shape, itemsize)

    return Op(f"into[{build}]", into, cost), Op(f"out_of[{build}]", out_of, cost)


@dataclass(frozen=True)
class Coordinates:
    """How a metric is kept, and which map C it gives.

    before    lines that bring the metric up to date and run before the direction
    after     such lines that run once the direction is known: a delayed metric
    rotations orthogonal maps, met first
    core      what is left of C after them: C^T C = S^p, or the whole of S^p if `whole` was asked
    slots     first values of its state
    view      the blocks of a weight that it works on; None for the weight itself
    """

    before: tuple[Line, ...]
    core: tuple[Applied, ...]
    after: tuple[Line, ...] = ()
    rotations: tuple[Applied, ...] = ()
    slots: Slots = ()
    view: BlockView | None = None

    @property
    def chain(self) -> tuple[Applied, ...]:
        """All maps, the first met first."""
        return self.rotations + self.core

    def down(self, read: str) -> tuple[tuple[Line, ...], str]:
        """Lines for C^-T read, and the name of the result."""
        return _sequence(read, self.chain, Applied.down, "_d")

    def up(self, read: str) -> tuple[tuple[Line, ...], str]:
        """Lines for C^-1 read, and the name of the result."""
        return _sequence(read, self.chain[::-1], Applied.up, "_u")

    def whitened(self, read: str) -> tuple[tuple[Line, ...], str]:
        """Lines for S^-p read where the core is the whole of S^p, and the name of the result."""
        into, name = self.down(read)
        back, name = _sequence(name, self.rotations[::-1], Applied.up, "_u")
        return into + back, name

    @property
    def reads(self) -> tuple[str, ...]:
        """All state that the maps are made of."""
        return tuple(name for each in self.chain for name in each.reads)

    def known(self, tensors: Sequence[Tensor]) -> LinearMap:
        """C itself, for the tensors named in `reads`."""
        return self._viewed(self._maps(tensors))

    def form(self, tensors: Sequence[Tensor]) -> LinearMap:
        """S^p itself where the core is the whole of it: R^T core R, with R the rotations."""
        maps = self._maps(tensors)
        back = Inverse(LinearChain(maps[: len(self.rotations)]))
        return self._viewed((*maps, back))

    def _maps(self, tensors: Sequence[Tensor]) -> tuple[LinearMap, ...]:
        maps, rest = [], list(tensors)
        for each in self.chain:
            mine, rest = rest[: len(each.reads)], rest[len(each.reads) :]
            maps.append(each.build(*mine))
        return tuple(maps)

    def _viewed(self, maps: tuple[LinearMap, ...]) -> LinearMap:
        chain = LinearChain(maps)
        return chain if self.view is None else OnBlocks(chain, self.view)


def _sequence(
    read: str, maps: Sequence[Applied], way: Callable[[Applied, str, str], Line], suffix: str
) -> tuple[tuple[Line, ...], str]:
    """Lines that send what is read through these maps, each in its own name, and the last name."""
    lines: list[Line] = []
    for each in maps:
        result = f"{lines[0].result}{len(lines) + 1}" if lines else read + suffix
        lines.append(way(each, lines[-1].result if lines else read, result))
    return tuple(lines), lines[-1].result if lines else read


@singledispatch
def coordinates(metric: Metric, shape: Shape, whole: bool) -> Coordinates:
    """How a metric is estimated for a weight of this shape; "sample" is what it averages.

    whole  whether the core shall be S^p (its inverse then whitens in one go), or its square root C
    """
    raise TypeError(f"{metric} is declared, but nothing estimates it: register it in duality/")


@coordinates.register
def _(metric: First, shape: Shape, whole: bool) -> Coordinates:
    raise ValueError(
        "metric.then(norm) is a chain, which is steepest in no norm: it stands with Unit() on a "
        f"weight without a manifold; declare norm.under({metric.metric}) here"
    )


@singledispatch
def describe(metric: Metric, shape: Shape) -> str:
    """What the plan says of a metric on a weight of this shape."""
    return str(metric)


@describe.register
def _(metric: First, shape: Shape) -> str:
    return f"first {describe(metric.metric, shape)}; no descent guarantee"


def is_limited(metric: Metric, shape: Shape) -> bool:
    """Whether a weight of this shape has a side too wide for the metric's max_dim."""
    return describe(metric, shape) != describe(_unlimited(metric), shape)


def _unlimited(metric: Any) -> Any:
    """The metric, and those that it is made of, without a max_dim."""
    changes: dict[str, Any] = {name: _unlimited(inside) for name, inside in metric.parts().items()}
    if metric.max_dim < sys.maxsize:
        changes["max_dim"] = sys.maxsize
    return replace(metric, **changes)
