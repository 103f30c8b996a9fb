"""How a diagonal second moment is kept in the eigenbasis of Kronecker factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modula.duality.metrics.block_layout import BlockLayout, Factor, block_layout, layout_of
from modula.duality.metrics.coordinates import Applied, Coordinates, coordinates, describe
from modula.duality.metrics.diagonal import average_of_squares
from modula.duality.metrics.kronecker import MomentLines
from modula.duality.metrics.maps import InBasis
from modula.duality.program.line import Line, line
from modula.duality.program.slot import Slot
from modula.kernels.elementwise import update
from modula.kernels.moments import eigenbasis
from modula.kernels.op import Cost, Shape, elementwise_cost
from modula.norms.maps.linear import Elementwise, LinearMap
from modula.norms.metrics.eigenbasis import Eigenbasis
from modula.norms.metrics.kronecker import Dense, DiagonalMode, Flat


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
    layout, kind = _layout(metric, shape), type(metric.kronecker.fit).__name__
    return f"diagonal in the eigenbasis of {kind}: {layout}, power {metric.power:g}"


@coordinates.register
def _(metric: Eigenbasis, shape: Shape, whole: bool) -> Coordinates:
    layout = _layout(metric, shape)
    alike = metric.kronecker.memory.beta == metric.memory.beta
    name = "beta" if alike else "basis_beta"
    moments = MomentLines(metric.kronecker, layout, power=None, beta=name)
    turned = [each for each in layout.factors if each.is_matrix]
    rotations = tuple(
        Applied(InBasis(each.dim, layout.ndim), (f"basis_{each.name}",), layout.shape)
        for each in turned
    )
    bases = _bases(metric, moments, turned)
    power = metric.power if whole else metric.power / 2
    build = PowerOfLargeSquares(power, metric.floor, layout.ndim)
    square = Slot(layout.shape, fill=metric.memory.first)
    instant = metric.kronecker.instant
    return Coordinates(
        before=(*(bases if instant else ()), *_moment(metric, rotations)),
        core=(Applied(build, ("square",), layout.shape),),
        after=() if instant else bases,
        rotations=rotations,
        slots=(
            *moments.slots(),
            ("square", square),
            *((f"basis_{each.name}", each.identity()) for each in turned),
        ),
        view=layout.view,
    )


def _layout(metric: Eigenbasis, shape: Shape) -> BlockLayout:
    """The layout of the Kronecker metric; a factor that turns and whitens nothing is left out."""
    layout = block_layout(metric.kronecker, tuple(shape)).only(Dense, DiagonalMode, Flat)
    if metric.kronecker.fit.coupled:
        return layout
    modes = tuple(mode if isinstance(mode, Dense) else Flat() for mode in layout.modes)
    return layout_of(layout.view, layout.blocks, layout.block, modes)


def _moment(metric: Eigenbasis, rotations: tuple[Applied, ...]) -> list[Line]:
    """Lines that average the squares of the rotated sample."""
    lines, read = [], "sample"
    for each in rotations:
        lines.append(each.down(read, "rotated"))
        read = "rotated"
    return [*lines, *average_of_squares(metric.memory, "square", read)]


def _bases(metric: Eigenbasis, moments: MomentLines, turned: list[Factor]) -> tuple[Line, ...]:
    """Lines that keep the factors, and now and then renew their bases and carry D over."""
    layout, every = moments.layout, metric.kronecker.every
    pairs = (f"{kept}_{each.name}" for each in turned for kept in ("basis", "new_basis"))
    # All bases turn in one step: D is carried from the old ones to the new ones at once.
    carry = line(
        "square",
        eigenbasis.carried,
        "square",
        *pairs,
        on=layout.shape,
        every=every,
        dims=tuple(each.dim for each in turned),
        ndim=layout.ndim,
    )
    return (
        *moments.observe(),
        *(each for factor in layout.factors for each in _renewed(metric, moments, factor)),
        *((carry,) if turned else ()),
        *(
            line(
                f"basis_{each.name}",
                update.copy,
                f"new_basis_{each.name}",
                on=each.shape,
                every=every,
            )
            for each in turned
        ),
    )


def _renewed(metric: Eigenbasis, moments: MomentLines, factor: Factor) -> list[Line]:
    """Lines from a factor to its new basis, and to the root that whitens for other factors."""
    roots = moments.roots(factor).items()
    if not factor.is_matrix:
        return [moments.root(factor, name, power) for name, power in roots]
    every, kept = metric.kronecker.every, f"factor_{factor.name}"
    now_and_then: dict[str, Any] = {"on": factor.shape, "every": every}
    new = line(
        f"new_basis_{factor.name}",
        eigenbasis.next_basis,
        *(kept, f"basis_{factor.name}", "step"),
        **now_and_then,
        young=every,
        tolerance=metric.tolerance,
    )
    renewed = [
        line(
            name,
            eigenbasis.root_in_basis,
            *(kept, new.result, name),
            **now_and_then,
            power=power,
            damping=metric.kronecker.damping,
        )
        for name, power in roots
    ]
    return [moments.rejected(factor), new, *renewed]
