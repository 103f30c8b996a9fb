"""Maps that several metrics make out of their state."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor

from modula.kernels.moments.structure import FULL, Structure
from modula.kernels.op import Cost, Shape
from modula.norms.maps.linear import Along, Elementwise, Inverse, LinearMap, Rotation, spread
from modula.norms.maps.structured import AlongBlocks


@dataclass(frozen=True)
class InverseAlong:
    """C whose inverse, a matrix of some structure, is known along one dim."""

    dim: int
    ndim: int = 2
    kind: Structure = FULL

    def __call__(self, *tensors: Tensor) -> LinearMap:
        (root,) = tensors
        if self.kind.ndim == 1:
            return Inverse(Elementwise(spread(root, self.dim, self.ndim)))
        along = Along if self.kind.ndim == 2 else AlongBlocks
        return Inverse(along(root, self.dim, self.ndim))

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        return _cost(shape, self.kind.width(shape[self.dim]), itemsize)

    def __str__(self) -> str:
        return f"dim {self.dim}"


@dataclass(frozen=True)
class InBasis:
    """C x = Q^T applied along one dim: coordinates in the columns of an orthogonal Q."""

    dim: int
    ndim: int = 2

    def __call__(self, *tensors: Tensor) -> LinearMap:
        (basis,) = tensors
        return Rotation(basis, self.dim, self.ndim)

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        return _cost(shape, shape[self.dim], itemsize)

    def __str__(self) -> str:
        return f"basis of dim {self.dim}"


def _cost(shape: Shape, width: int, itemsize: int) -> Cost:
    """Of a product that takes `width` multiplications an entry."""
    return Cost(2.0 * prod(shape) * width, 2.0 * itemsize * prod(shape))
