"""Slots: declarations of the state that a program keeps between steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from modula.kernels.op import Shape


@dataclass(frozen=True)
class Slot:
    """One name of a weight's state: its shape, first value and kind.

    shape          of the tensor; None for the weight's own
    fill           of every entry
    diagonal       of the entries on the diagonal of each square matrix, where it differs
    counts         whether it is a number that the host counts, kept in float32 on the CPU: read
                   without waiting for a device
    second_moment  whether it is an average of the gradient's squares, entry by entry: Adam's v
    """

    shape: Shape | None = None
    fill: float = 0.0
    diagonal: float | None = None
    counts: bool = False
    second_moment: bool = False

    def first(self, weight: Tensor) -> Tensor:
        """The first value, for a weight or a batch of them."""
        x = weight.new_empty(weight.shape if self.shape is None else self.shape)
        self.fill_(x)
        return x

    def fill_(self, x: Tensor) -> None:
        """Write the first value into x."""
        x.fill_(self.fill)
        if self.diagonal is not None:
            x.diagonal(dim1=-2, dim2=-1).fill_(self.diagonal)

    def sized(self, shape: Shape) -> Slot:
        """The same, for state that has this shape if it is the weight's own."""
        return self if self.shape is not None else replace(self, shape=tuple(shape))


Slots = tuple[tuple[str, Slot], ...]
COUNTER = Slot((), counts=True)
