"""Oblique manifolds: matrices whose rows, or whose columns, all have one length."""

from dataclasses import dataclass
from typing import Literal

from modula.manifolds.checks import check_radius
from modula.manifolds.unit_vectors import UnitVectors


@dataclass(frozen=True, repr=False)
class Oblique(UnitVectors):
    r"""{ W : every row (or every column) has ||.||_2 = radius },  W: (..., out, in).

        to_tangent(W, V) = V - w <w, v> / <w, w>   row by row (or column by column)
        retract(W, V) = W + V with its rows (or columns) brought back to the radius

    `axis` is "rows" or "columns". A zero row is equally far from every point; it is sent to the
    first basis vector.

    >>> import torch
    >>> Oblique("columns").project(torch.tensor([[3.0, 0.0], [4.0, 2.0]]))
    tensor([[0.6000, 0.0000],
            [0.8000, 1.0000]])

    Source: Absil and Gallivan 2006, Joint diagonalization on the oblique manifold for independent
    component analysis.
    """

    axis: Literal["rows", "columns"] = "rows"
    radius: float = 1.0

    def __post_init__(self) -> None:
        check_radius("Oblique", self.radius)
        if self.axis not in ("rows", "columns"):
            raise ValueError(f'Oblique needs axis="rows" or axis="columns", got {self.axis!r}')

    @property
    def ndim(self) -> int:
        return 2

    @property
    def dims(self) -> tuple[int, ...]:
        return (-1,) if self.axis == "rows" else (-2,)
