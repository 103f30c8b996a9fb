"""How a factor with spikes and a flat part is kept: see kernels/moments/spiked.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor

from modula.duality.metrics.block_layout import Fitted
from modula.duality.metrics.coordinates import with_cost_of
from modula.duality.program.line import Line, line
from modula.duality.program.slot import Slot, Slots
from modula.kernels.elementwise import update
from modula.kernels.moments import spiked
from modula.kernels.op import Cost, Op, Shape
from modula.norms.maps.linear import Inverse, LinearMap
from modula.norms.maps.structured import Spiked


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
class Subspace:
    """Writes the lines that keep basis_i and the values in it, factor_i, of dim i."""

    fitted: Fitted
    i: int
    rank: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the basis."""
        return (*self.fitted.counted, self.fitted.block[self.i], self.rank)

    def slots(self) -> Slots:
        """First values of the basis and its image."""
        return (
            (f"basis_{self.i}", Slot(self.shape, diagonal=1.0)),
            (f"image_{self.i}", Slot(self.shape)),
        )

    def average(self, read: str, beta: float, unbiased: bool, **along: Any) -> list[Line]:
        """Lines that average the values of `read`, in a basis that has just followed it."""
        i, kind = self.i, self.fitted.kind(self.i)
        basis, image, values, new = f"basis_{i}", f"image_{i}", f"factor_{i}", f"new_basis_{i}"
        along |= {"beta": beta, "kind": kind}
        return [
            self._on_basis(basis, spiked.begun, basis, read, "seen"),
            self._on_weight(image, spiked.average_image, image, read, basis, "seen", **along),
            self._rarely(new, spiked.next_subspace, image, basis, values, read),
            self._rarely(image, spiked.carried_image, image, basis, new, values),
            self._rarely(values, spiked.carried_values, values, basis, new, kind=kind),
            self._rarely(basis, update.copy, new),
            self._on_weight(
                values,
                spiked.average_values,
                *(values, read, basis, "seen"),
                **along,
                unbiased=unbiased,
            ),
        ]

    def _on_basis(self, result: str, op: Op, *reads: str, **options: Any) -> Line:
        return with_cost_of(line(result, op, *reads, **options), self.shape)

    def _on_weight(self, result: str, op: Op, *reads: str, **options: Any) -> Line:
        return with_cost_of(line(result, op, *reads, **options), self.fitted.shape)

    def _rarely(self, result: str, op: Op, *reads: str, **options: Any) -> Line:
        each = self._on_basis(result, op, *reads, **options)
        return replace(each, every=self.fitted.metric.every)
