"""How a diagonal second moment is kept in the eigenbasis of Kronecker factors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from torch import Tensor

from modula.duality.coordinates import Applied, Coordinates, coordinates, describe, with_cost_of
from modula.duality.diagonal import PowerOfSquares, average_of_squares
from modula.duality.fitted import Fitted, fit
from modula.duality.kronecker import Keeper
from modula.duality.program import Line, Slot, line
from modula.kernels import eigenbasis
from modula.kernels.op import Cost, Shape
from modula.norms.coordinates import LinearMap, Rotation
from modula.norms.eigenbasis import Eigenbasis


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


@describe.register
def _(metric: Eigenbasis, shape: Shape) -> str:
    fitted, kind = fit(metric.kronecker, shape), type(metric.kronecker.fit).__name__
    return f"diagonal in the eigenbasis of {kind}: {fitted}, power {metric.power:g}"


@coordinates.register
def _(metric: Eigenbasis, shape: Shape, whole: bool) -> Coordinates:
    fitted = fit(metric.kronecker, shape)
    turned = tuple(i for i in fitted.estimated if fitted.dense(i))
    maps = {i: Rotated(fitted.dim(i), fitted.ndim) for i in turned}
    rotations = tuple(Applied(maps[i], (f"basis_{i}",), fitted.shape) for i in turned)
    bases = _bases(metric, fitted, turned)
    build = PowerOfSquares(metric.power, metric.floor, 1.0 if whole else 0.5)
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


def _moment(metric: Eigenbasis, rotations: tuple[Applied, ...]) -> list[Line]:
    """Lines that average the squares of the rotated sample."""
    lines, read = [], "sample"
    for each in rotations:
        lines.append(each.down(read, "rotated"))
        read = "rotated"
    return [*lines, *average_of_squares(metric.memory, "square", read)]


def _bases(metric: Eigenbasis, fitted: Fitted, turned: tuple[int, ...]) -> tuple[Line, ...]:
    """Lines that keep the factors, and now and then renew their bases and carry D over."""
    keeper, every = Keeper(fitted, None), metric.kronecker.every
    found, pairs = [], []
    for i in turned:
        options = {"young": every, "tolerance": metric.tolerance}
        reads = (f"factor_{i}", f"basis_{i}", "step")
        each = line(f"new_basis_{i}", eigenbasis.next_basis, *reads, **options)
        found.append(keeper.now_and_then(each, i))
        pairs += [f"basis_{i}", f"new_basis_{i}"]
    dims = tuple(fitted.dim(i) for i in turned)
    carry = line("square", eigenbasis.carried, "square", *pairs, dims=dims, ndim=fitted.ndim)
    if turned:
        found.append(replace(with_cost_of(carry, fitted.shape), every=every))
    for i in turned:
        found.append(keeper.now_and_then(line(f"basis_{i}", eigenbasis.kept, f"new_basis_{i}"), i))
    return (*keeper.observe(), *keeper.refresh(), *found)
