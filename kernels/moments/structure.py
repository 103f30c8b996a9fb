r"""How a d x d matrix along one dim of a weight is stored: full, as its diagonal, or as blocks.

All dims before those of the matrix are a batch: they count the blocks of a weight, and weights.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modula.kernels.spectral.products import gram


class Structure(ABC):
    """A set of d x d matrices that contains I, each stored as a tensor of `ndim` dims."""

    ndim: ClassVar[int]

    @abstractmethod
    def shape(self, size: int) -> tuple[int, ...]:
        """Shape of what is stored of a matrix of this size."""

    @abstractmethod
    def width(self, size: int) -> int:
        """Multiplications a row that a product with such a matrix takes."""

    @abstractmethod
    def mean(self, x: Tensor) -> Tensor:
        """The mean eigenvalue, trace / d: (...)"""

    @abstractmethod
    def add_identity_(self, x: Tensor, size: Tensor) -> Tensor:
        """x += size I, for size: (...)"""

    def identity(self, size: Tensor, like: Tensor) -> Tensor:
        """size I, of the shape of `like`."""
        return self.add_identity_(torch.zeros_like(like), size)


class Pattern(Structure):
    """The matrices with a given pattern of zeros."""

    @abstractmethod
    def diagonal(self, x: Tensor) -> Tensor:
        """The diagonal: (..., d)"""

    @abstractmethod
    def part_of(self, matrix: Tensor) -> Tensor:
        """These entries of any matrix, (..., d, d)."""

    @abstractmethod
    def gram(self, rows: Tensor) -> Tensor:
        """These entries of rows rows^T, for rows: (..., d, n)."""

    def mean(self, x: Tensor) -> Tensor:
        return self.diagonal(x).mean(-1)

    def mean_square(self, x: Tensor) -> Tensor:
        """The mean eigenvalue of X X^T: (...)"""
        return x.square().sum(self.dims) / self.diagonal(x).shape[-1]

    @property
    def dims(self) -> tuple[int, ...]:
        """The dims of the matrix, counted from the last."""
        return tuple(range(-self.ndim, 0))

    def add_identity_(self, x: Tensor, size: Tensor) -> Tensor:
        x.diagonal(dim1=-2, dim2=-1).add_(size[(..., *(None,) * (self.ndim - 1))])
        return x

    def generator(self, symmetric: Tensor) -> Tensor:
        """The X with these entries for which X + X^T is twice a symmetric matrix."""
        return symmetric


@dataclass(frozen=True, repr=False)
class FullMatrix(Pattern):
    """All matrices: (..., d, d).

    lower  whether it is lower triangular; moments, which are symmetric, are kept whole then too
    """

    lower: bool = False
    ndim: ClassVar[int] = 2

    def __repr__(self) -> str:
        return "triangular" if self.lower else "full"

    def shape(self, size: int) -> tuple[int, ...]:
        return size, size

    def width(self, size: int) -> int:
        return size

    def diagonal(self, x: Tensor) -> Tensor:
        return x.diagonal(dim1=-2, dim2=-1)

    def part_of(self, matrix: Tensor) -> Tensor:
        return matrix

    def gram(self, rows: Tensor) -> Tensor:
        if rows.device.type != "cpu":
            return gram(rows)
        # Large matrices one by one, half of the work left out.
        stack = rows.reshape(-1, *rows.shape[-2:])
        grams = torch.stack([gram(one) for one in stack])
        return grams.reshape(*rows.shape[:-1], rows.shape[-2])

    def generator(self, symmetric: Tensor) -> Tensor:
        return symmetric.tril() + symmetric.tril(-1) if self.lower else symmetric


@dataclass(frozen=True, repr=False)
class DiagonalMatrix(Pattern):
    """Diagonal matrices: (..., d)."""

    ndim: ClassVar[int] = 1

    def __repr__(self) -> str:
        return "diagonal"

    def shape(self, size: int) -> tuple[int, ...]:
        return (size,)

    def width(self, size: int) -> int:
        return 1

    def diagonal(self, x: Tensor) -> Tensor:
        return x

    def part_of(self, matrix: Tensor) -> Tensor:
        return matrix.diagonal(dim1=-2, dim2=-1)

    def gram(self, rows: Tensor) -> Tensor:
        return rows.square().sum(-1)

    def add_identity_(self, x: Tensor, size: Tensor) -> Tensor:
        return x.add_(size[..., None])


@dataclass(frozen=True, repr=False)
class BlockMatrix(Pattern):
    """Block-diagonal matrices of `count` equal blocks: (..., count, d / count, d / count)."""

    count: int
    ndim: ClassVar[int] = 3

    def __repr__(self) -> str:
        return f"{self.count} blocks"

    def shape(self, size: int) -> tuple[int, ...]:
        return self.count, self.width(size), self.width(size)

    def width(self, size: int) -> int:
        return size // self.count

    def diagonal(self, x: Tensor) -> Tensor:
        return x.diagonal(dim1=-2, dim2=-1).flatten(-2)

    def part_of(self, matrix: Tensor) -> Tensor:
        size = self.width(matrix.shape[-1])
        cut = matrix.unflatten(-2, (self.count, size)).unflatten(-1, (self.count, size))
        return cut.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)

    def gram(self, rows: Tensor) -> Tensor:
        blocks = rows.unflatten(-2, (self.count, -1))
        return blocks @ blocks.mT


FULL, LOWER, DIAGONAL = FullMatrix(), FullMatrix(lower=True), DiagonalMatrix()
