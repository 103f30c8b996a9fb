"""Linear maps of a structure: blocks on a diagonal, a few directions, a diagonal and a low rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modula.norms.maps.linear import LinearMap, along, spread
from modula.norms.numerics import add_dims


def along_blocks(x: Tensor, blocks: Tensor, dim: int, ndim: int) -> Tensor:
    """`along` for a matrix with blocks on its diagonal: (..., count, b, b), d = count b."""
    moved = x.movedim(dim, -1)
    rows = moved.flatten(-ndim, -2) if ndim > 1 else moved.unsqueeze(-2)
    cut = rows.unflatten(-1, blocks.shape[-3:-1]).transpose(-3, -2)  # (..., count, rows, b)
    product = (cut @ blocks.mT).transpose(-3, -2)
    return product.reshape(moved.shape).movedim(-1, dim)


@dataclass(frozen=True, eq=False)
class AlongBlocks(LinearMap):
    """C x = a block-diagonal matrix applied along one dim; blocks: (..., count, b, b)."""

    blocks: Tensor
    dim: int
    ndim: int = 2

    def apply(self, x: Tensor) -> Tensor:
        return along_blocks(x, self.blocks, self.dim, self.ndim)

    def transpose(self, x: Tensor) -> Tensor:
        return along_blocks(x, self.blocks.mT, self.dim, self.ndim)

    def inverse(self, x: Tensor) -> Tensor:
        return along_blocks(x, torch.linalg.inv(self.blocks), self.dim, self.ndim)

    def inverse_transpose(self, x: Tensor) -> Tensor:
        return along_blocks(x, torch.linalg.inv(self.blocks).mT, self.dim, self.ndim)


@dataclass(frozen=True, eq=False)
class Spiked(LinearMap):
    """C x = (U diag(l) U^T + mu (I - U U^T)) applied along one dim.

    values: (..., rank + 1), all of them positive, l and then mu; basis: (..., d, rank).
    """

    values: Tensor
    basis: Tensor
    dim: int
    ndim: int = 2

    def apply(self, x: Tensor) -> Tensor:
        return self._scaled(x, self.values)

    def transpose(self, x: Tensor) -> Tensor:
        return self._scaled(x, self.values)

    def inverse(self, x: Tensor) -> Tensor:
        return self._scaled(x, 1 / self.values)

    def inverse_transpose(self, x: Tensor) -> Tensor:
        return self._scaled(x, 1 / self.values)

    def _scaled(self, x: Tensor, values: Tensor) -> Tensor:
        flat = values[..., -1:]
        inside = along(x, self.basis.mT, self.dim, self.ndim)
        inside = spread(values[..., :-1] - flat, self.dim, self.ndim) * inside
        rest = add_dims(flat, self.ndim - 1) * x
        return rest + along(inside, self.basis, self.dim, self.ndim)


@dataclass(frozen=True, eq=False)
class LowRankScaled(LinearMap):
    """C x = (I + U V^T) (d * x) over the N entries of a weight.

    scale: d > 0, (..., *weight); left, right: U and V, (..., N, rank).
    """

    scale: Tensor
    left: Tensor
    right: Tensor

    def apply(self, x: Tensor) -> Tensor:
        return self._moved(self.scale * x, self.left, self.right)

    def transpose(self, x: Tensor) -> Tensor:
        return self.scale * self._moved(x, self.right, self.left)

    def inverse(self, x: Tensor) -> Tensor:
        return self._moved(x, *self._inward(self.left, self.right)) / self.scale

    def inverse_transpose(self, x: Tensor) -> Tensor:
        return self._moved(x / self.scale, *self._inward(self.right, self.left))

    def _moved(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        rows = x.reshape(*left.shape[:-1], 1)
        return (rows + left @ (right.mT @ rows)).reshape(x.shape)

    def _inward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """(I + U V^T)^-1 = I - U (I + V^T U)^-1 V^T"""
        eye = torch.eye(left.shape[-1], dtype=left.dtype, device=left.device)
        return -torch.linalg.solve(right.mT @ left + eye, left, left=False), right
