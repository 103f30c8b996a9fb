"""How a factor with spikes and a flat part is kept: see kernels/moments/spiked.py."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, cast

from torch import Tensor

from modula.duality.metrics.block_layout import Factor
from modula.duality.program.line import Line, Live, line
from modula.duality.program.slot import Slot, Slots
from modula.kernels.elementwise import update
from modula.kernels.moments import spiked
from modula.kernels.op import Cost, Shape
from modula.norms.maps.linear import Inverse, LinearMap
from modula.norms.maps.structured import Spiked
from modula.norms.metrics.kronecker import SpikeAndFlat


@dataclass(frozen=True)
class InverseSpiked:
    """C whose inverse has `rank` spikes, and is flat otherwise, along one dim."""

    dim: int
    ndim: int
    rank: int

    def __call__(self, *tensors: Tensor) -> LinearMap:
        root, basis = tensors
        return Inverse(Spiked(root, basis, self.dim, self.ndim))

    def __str__(self) -> str:
        return f"dim {self.dim}"

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        return Cost(4.0 * prod(shape) * self.rank, 4.0 * itemsize * prod(shape))


@dataclass(frozen=True)
class SpikedLines:
    """Writes the lines that keep the basis of a factor with spikes, and its values in that basis.

    shape  of the weight in blocks
    every  steps between two renewals of the basis
    """

    factor: Factor
    shape: tuple[int, ...]
    every: int

    @property
    def basis_shape(self) -> tuple[int, ...]:
        """(blocks..., d, rank)"""
        return (*self.factor.blocks, self.factor.size, cast(SpikeAndFlat, self.factor.mode).rank)

    def slots(self) -> Slots:
        """First values of the basis and its image."""
        name, shape = self.factor.name, self.basis_shape
        return (f"basis_{name}", Slot(shape, diagonal=1.0)), (f"image_{name}", Slot(shape))

    def average(self, read: str, beta: Live, unbiased: bool, **along: Any) -> list[Line]:
        """Lines that average the values of `read`, in a basis that has just followed it."""
        name, kind = self.factor.name, self.factor.kind
        basis, image, values, new = (
            f"{kept}_{name}" for kept in ("basis", "image", "factor", "new_basis")
        )
        along |= {"beta": beta, "kind": kind}
        shape: Any = {"on": self.basis_shape}
        now_and_then: Any = {"on": self.basis_shape, "every": self.every}
        return [
            line(basis, spiked.begun, basis, read, "seen", **shape),
            line(image, spiked.average_image, image, read, basis, "seen", on=self.shape, **along),
            line(new, spiked.next_subspace, image, basis, values, read, **now_and_then),
            # What was averaged in the old basis is seen in the new one, and so not forgotten.
            line(image, spiked.carried_image, image, basis, new, values, **now_and_then),
            line(values, spiked.carried_values, values, basis, new, kind=kind, **now_and_then),
            line(basis, update.copy, new, **now_and_then),
            line(
                values,
                spiked.average_values,
                *(values, read, basis, "seen"),
                on=self.shape,
                **along,
                unbiased=unbiased,
            ),
        ]
