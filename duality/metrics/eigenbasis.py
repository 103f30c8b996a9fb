"""How a diagonal second moment is kept in the eigenbasis of Kronecker factors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from modula.duality.metrics.block_layout import Fitted, fit
from modula.duality.metrics.coordinates import (
    Applied,
    Coordinates,
    coordinates,
    describe,
    with_cost_of,
)
from modula.duality.metrics.diagonal import average_of_squares
from modula.duality.metrics.kronecker import Keeper
from modula.duality.program.line import Line, line
from modula.duality.program.slot import Slot
from modula.kernels.elementwise import update
from modula.kernels.moments import eigenbasis
from modula.kernels.op import Cost, Shape, elementwise_cost
from modula.norms.maps.linear import Elementwise, LinearMap, Rotation
from modula.norms.metrics.eigenbasis import Eigenbasis
from modula.norms.metrics.kronecker import Dense, DiagonalMode, Flat


@dataclass(frozen=True)
class Rotated:
    """Coordinates in the columns of a basis, along one dim."""

    dim: int
    ndim: int

    def __call__(self, *tensors: Tensor) -> LinearMap:
        (basis,) = tensors
        return Rotation(basis, self.dim, self.ndim)

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        return Cost(2.0 * prod(shape) * shape[self.dim], 2.0 * itemsize * prod(shape))

    def __str__(self) -> str:
        return f"basis of dim {self.dim}"


@dataclass(frozen=True)
class PowerOfLargeSquares:
    """C = max(S, floor^2 max S)^power, entry by entry of a block of ndim dims."""

    power: float
    floor: float
    ndim: int

    def __call__(self, *tensors: Tensor) -> LinearMap:
        (square,) = tensors
        least = self.floor**2 * square.amax(tuple(range(-self.ndim, 0)), keepdim=True)
        scale = torch.maximum(square, least) ** self.power
        # Where no gradient was ever seen nothing is known, and nothing but zero comes along.
        return Elementwise(scale.where(scale > 0, 1.0))

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        return elementwise_cost(3, 4)(shape, itemsize)

    def __str__(self) -> str:
        return "diagonal"


@describe.register
def _(metric: Eigenbasis, shape: Shape) -> str:
    fitted, kind = _fit(metric, shape), type(metric.kronecker.fit).__name__
    return f"diagonal in the eigenbasis of {kind}: {fitted}, power {metric.power:g}"


@coordinates.register
def _(metric: Eigenbasis, shape: Shape, whole: bool) -> Coordinates:
    fitted = _fit(metric, shape)
    turned = tuple(i for i in fitted.estimated if fitted.dense(i))
    maps = {i: Rotated(fitted.dim(i), fitted.ndim) for i in turned}
    rotations = tuple(Applied(maps[i], (f"basis_{i}",), fitted.shape) for i in turned)
    bases = _bases(metric, fitted, turned)
    power = metric.power if whole else metric.power / 2
    build = PowerOfLargeSquares(power, metric.floor, fitted.ndim)
    slots = [("square", Slot(fitted.shape, fill=metric.memory.first))]
    slots += [(f"basis_{i}", Slot(fitted.factor_shape(i), diagonal=1.0)) for i in turned]
    instant = metric.kronecker.instant
    return Coordinates(
        before=(*(bases if instant else ()), *_moment(metric, rotations)),
        core=(Applied(build, ("square",), fitted.shape),),
        after=() if instant else bases,
        rotations=rotations,
        slots=(*Keeper(fitted, None).slots(), *slots),
        view=fitted.view,
    )


def _fit(metric: Eigenbasis, shape: Shape) -> Fitted:
    """The Kronecker metric made to fit; a factor that turns and whitens nothing is left out."""
    fitted = fit(metric.kronecker, shape).only(Dense, DiagonalMode, Flat)
    if metric.kronecker.fit.coupled:
        return fitted
    modes = (mode if isinstance(mode, Dense) else Flat() for mode in fitted.modes)
    return replace(fitted, modes=tuple(modes))


def _moment(metric: Eigenbasis, rotations: tuple[Applied, ...]) -> list[Line]:
    """Lines that average the squares of the rotated sample."""
    lines, read = [], "sample"
    for each in rotations:
        lines.append(each.down(read, "rotated"))
        read = "rotated"
    return [*lines, *average_of_squares(metric.memory, "square", read)]


def _bases(metric: Eigenbasis, fitted: Fitted, turned: tuple[int, ...]) -> tuple[Line, ...]:
    """Lines that keep the factors, and now and then renew their bases and carry D over."""
    keeper = Keeper(fitted, None)
    renewed = (each for i in fitted.estimated for each in _renewed(metric, keeper, i))
    pairs = (name for i in turned for name in (f"basis_{i}", f"new_basis_{i}"))
    dims = tuple(fitted.dim(i) for i in turned)
    carry = line("square", eigenbasis.carried, "square", *pairs, dims=dims, ndim=fitted.ndim)
    carry = replace(with_cost_of(carry, fitted.shape), every=metric.kronecker.every)
    kept = (line(f"basis_{i}", update.copy, f"new_basis_{i}") for i in turned)
    return (
        *keeper.observe(),
        *renewed,
        *((carry,) if turned else ()),
        *(keeper.now_and_then(each, i) for each, i in zip(kept, turned, strict=True)),
    )


def _renewed(metric: Eigenbasis, keeper: Keeper, i: int) -> list[Line]:
    """Lines from factor i to its new basis, and to the root that whitens for other factors."""
    roots = keeper.roots(i).items()
    if not keeper.fitted.dense(i):
        return [keeper.root(i, name, power) for name, power in roots]
    young = {"young": metric.kronecker.every, "tolerance": metric.tolerance}
    reads = (f"factor_{i}", f"basis_{i}", "step")
    lines = [line(f"new_basis_{i}", eigenbasis.next_basis, *reads, **young)]
    for name, power in roots:
        reads = (f"factor_{i}", f"new_basis_{i}", name)
        options = {"power": power, "damping": metric.kronecker.damping}
        lines.append(line(name, eigenbasis.root_in_basis, *reads, **options))
    return [keeper.rejected(i), *(keeper.now_and_then(each, i) for each in lines)]
