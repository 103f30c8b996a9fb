"""Linear maps of a weight, along one dim or entry by entry, and what is made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from modula.norms.blocks import BlockView
from modula.norms.checks import check_fields


class LinearMap(ABC):
    """An invertible linear map of weights; any dims before a weight's are a batch.

    Laws, checked for every subclass by tests/norms/maps/test_linear.py:
        <apply(x), y> == <x, transpose(y)>,  inverse(apply(x)) == x
        inverse_transpose(x) == transpose^-1(x)
    """

    def __post_init__(self) -> None:
        check_fields(self)  # of a subclass, which is a dataclass

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """C x"""

    @abstractmethod
    def transpose(self, x: Tensor) -> Tensor:
        """C^T x"""

    @abstractmethod
    def inverse(self, x: Tensor) -> Tensor:
        """C^-1 x"""

    @abstractmethod
    def inverse_transpose(self, x: Tensor) -> Tensor:
        """C^-T x"""


def along(x: Tensor, matrix: Tensor, dim: int, ndim: int) -> Tensor:
    """The matrix applied along one dim of x, a weight of ndim dims: sum_j matrix[i, j] x[.. j ..].

    x: (..., d_1, ..., d_ndim), matrix: (..., c, d), dim < 0 counts from the last.
    """
    matrix = matrix.to(x.dtype)
    if ndim == 2:
        return matrix @ x if dim == -2 else x @ matrix.mT
    moved = x.movedim(dim, -1)
    rows = moved.flatten(-ndim, -2) if ndim > 1 else moved.unsqueeze(-2)
    return (rows @ matrix.mT).reshape(*moved.shape[:-1], -1).movedim(-1, dim)


def _check_dim(dim: int, ndim: int) -> None:
    """Raise ValueError for a dim that is not of the weight; those before it are a batch."""
    if not -ndim <= dim < 0:
        raise ValueError(f"a dim of a weight is counted from the last, -{ndim} to -1; got {dim}")


def spread(vector: Tensor, dim: int, ndim: int) -> Tensor:
    """A vector (..., d) shaped so that it multiplies along one dim of a weight of ndim dims."""
    return vector.reshape(
        *vector.shape[:-1], *(1,) * (ndim + dim), vector.shape[-1], *(1,) * (-dim - 1)
    )


@dataclass(frozen=True, eq=False)
class Along(LinearMap):
    """C x = matrix applied along one dim of a weight of ndim dims."""

    matrix: Tensor
    dim: int
    ndim: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_dim(self.dim, self.ndim)

    def apply(self, x: Tensor) -> Tensor:
        return along(x, self.matrix, self.dim, self.ndim)

    def transpose(self, x: Tensor) -> Tensor:
        return along(x, self.matrix.mT, self.dim, self.ndim)

    def inverse(self, x: Tensor) -> Tensor:
        return along(x, self._inverted(), self.dim, self.ndim)

    def inverse_transpose(self, x: Tensor) -> Tensor:
        return along(x, self._inverted().mT, self.dim, self.ndim)

    def _inverted(self) -> Tensor:
        # torch.linalg.inv would wait for the device, to see whether there is an inverse.
        return torch.linalg.inv_ex(self.matrix).inverse


@dataclass(frozen=True, eq=False)
class Rotation(LinearMap):
    """C x = Q^T applied along one dim: coordinates in the orthonormal columns of Q."""

    basis: Tensor
    dim: int
    ndim: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_dim(self.dim, self.ndim)

    def apply(self, x: Tensor) -> Tensor:
        return along(x, self.basis.mT, self.dim, self.ndim)

    def transpose(self, x: Tensor) -> Tensor:
        return along(x, self.basis, self.dim, self.ndim)

    def inverse(self, x: Tensor) -> Tensor:
        return self.transpose(x)

    def inverse_transpose(self, x: Tensor) -> Tensor:
        return self.apply(x)


@dataclass(frozen=True, eq=False)
class Elementwise(LinearMap):
    """C x = scale * x, entry by entry; scale > 0 broadcasts."""

    scale: Tensor

    def apply(self, x: Tensor) -> Tensor:
        return self.scale * x

    def transpose(self, x: Tensor) -> Tensor:
        return self.scale * x

    def inverse(self, x: Tensor) -> Tensor:
        return x / self.scale

    def inverse_transpose(self, x: Tensor) -> Tensor:
        return x / self.scale


@dataclass(frozen=True)
class Inverse(LinearMap):
    """The inverse of a map, for coordinates that are known by it."""

    of: LinearMap

    def apply(self, x: Tensor) -> Tensor:
        return self.of.inverse(x)

    def transpose(self, x: Tensor) -> Tensor:
        return self.of.inverse_transpose(x)

    def inverse(self, x: Tensor) -> Tensor:
        return self.of.apply(x)

    def inverse_transpose(self, x: Tensor) -> Tensor:
        return self.of.transpose(x)


@dataclass(frozen=True)
class Transposed(LinearMap):
    """The transpose of a map."""

    of: LinearMap

    def apply(self, x: Tensor) -> Tensor:
        return self.of.transpose(x)

    def transpose(self, x: Tensor) -> Tensor:
        return self.of.apply(x)

    def inverse(self, x: Tensor) -> Tensor:
        return self.of.inverse_transpose(x)

    def inverse_transpose(self, x: Tensor) -> Tensor:
        return self.of.inverse(x)


@dataclass(frozen=True)
class LinearChain(LinearMap):
    """C = maps[-1] ... maps[0]: the first map meets the weight first."""

    maps: tuple[LinearMap, ...] = ()

    def apply(self, x: Tensor) -> Tensor:
        return reduce(lambda y, each: each.apply(y), self.maps, x)

    def transpose(self, x: Tensor) -> Tensor:
        return reduce(lambda y, each: each.transpose(y), reversed(self.maps), x)

    def inverse(self, x: Tensor) -> Tensor:
        return reduce(lambda y, each: each.inverse(y), reversed(self.maps), x)

    def inverse_transpose(self, x: Tensor) -> Tensor:
        return reduce(lambda y, each: each.inverse_transpose(y), self.maps, x)


@dataclass(frozen=True)
class OnBlocks(LinearMap):
    """A map of the blocks of a weight, in the layout of a view."""

    of: LinearMap
    view: BlockView

    def apply(self, x: Tensor) -> Tensor:
        return self.view.from_blocks(self.of.apply(self.view.to_blocks(x)), x.shape)

    def transpose(self, x: Tensor) -> Tensor:
        return self.view.from_blocks(self.of.transpose(self.view.to_blocks(x)), x.shape)

    def inverse(self, x: Tensor) -> Tensor:
        return self.view.from_blocks(self.of.inverse(self.view.to_blocks(x)), x.shape)

    def inverse_transpose(self, x: Tensor) -> Tensor:
        return self.view.from_blocks(self.of.inverse_transpose(self.view.to_blocks(x)), x.shape)
