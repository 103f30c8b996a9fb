"""Rotations of the rows and columns of a matrix, block by block: POET."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from modula.manifolds.checks import is_whole
from modula.manifolds.numerics import skew


class Chart(ABC):
    """Skew matrices as coordinates of rotations: X -> R(X), with R(0) = I and dR = 2 dX there."""

    @abstractmethod
    def rotation(self, x: Tensor) -> Tensor:
        """R(X), for skew X: (..., b, b)."""

    @abstractmethod
    def pull_back(self, x: Tensor, g: Tensor) -> Tensor:
        """The gradient in the entries above the diagonal of X, and its negative below.

        g: (..., b, b) is the gradient in R(X).
        """


@dataclass(frozen=True)
class Cayley(Chart):
    """R = (I + X) (I - X)^-1: orthogonal to rounding.  dR = 2 (I - X)^-1 dX (I - X)^-1.

    Source: Cayley 1846, Sur quelques proprietes des determinants gauches.
    """

    def rotation(self, x: Tensor) -> Tensor:
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return torch.linalg.solve(eye - x, eye + x, left=False)

    def pull_back(self, x: Tensor, g: Tensor) -> Tensor:
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        inverse = torch.linalg.inv(eye + x)  # the transpose of (I - X)^-1
        return 2 * skew(2 * inverse @ g @ inverse)


@dataclass(frozen=True)
class CayleyNeumann(Chart):
    """R = I + 2 (X + X^2 + ... + X^terms): products alone, orthogonal up to O(|X|^(terms + 1)).

    Source: Qiu et al. 2025, arXiv:2506.08001.
    """

    terms: int = 4

    def __post_init__(self) -> None:
        if not is_whole(self.terms, 1):
            raise ValueError(f"CayleyNeumann needs at least one term, got {self.terms!r}: use 4")

    def rotation(self, x: Tensor) -> Tensor:
        total = power = x
        for _ in range(self.terms - 1):
            power = power @ x
            total = total + power
        return torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) + 2 * total

    def pull_back(self, x: Tensor, g: Tensor) -> Tensor:
        # d X^k = sum of X^i dX X^j over i + j = k - 1; Y_k = X^T Y_(k-1) + G (X^T)^(k-1), Y_1 = G.
        term = total = right = g
        for _ in range(self.terms - 1):
            right = right @ x.mT
            term = x.mT @ term + right
            total = total + term
        return 2 * skew(2 * total)


@dataclass(frozen=True)
class Rotations:
    """W = R W0 P^T: R and P rotate the rows and columns of W0, in blocks after a permutation.

    block  side of a block: that many rows, or columns, are mixed with each other
    every  steps until the rotation is merged into W0 and the permutations are drawn afresh
    chart  from skew matrices to rotations

    One weight has ceil(out / block) + ceil(in / block) skew blocks; what a last block has too many
    rows stays unrotated, since nothing there has a gradient.
    """

    block: int = 256
    every: int = 200
    chart: Chart = Cayley()

    def __post_init__(self) -> None:
        if not (is_whole(self.block, 2) and is_whole(self.every, 1)):
            raise ValueError(
                f"Rotations need block >= 2 and every >= 1, got {self.block!r} and {self.every!r}: "
                f"one row alone has nothing to turn to"
            )
        if not isinstance(self.chart, Chart):
            raise ValueError(
                f"Rotations need a chart such as Cayley() or CayleyNeumann(4), got {self.chart!r}"
            )

    def side(self, shape: tuple[int, ...]) -> int:
        """Side of a block in a weight of this shape."""
        return max(2, min(self.block, max(shape[-2:])))

    def counts(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """How many blocks of rows, and of columns."""
        side = self.side(shape)
        return -(-shape[-2] // side), -(-shape[-1] // side)

    def shuffle(self, shape: tuple[int, ...], seed: int) -> Tensor:
        """The order of the rows, then of the columns, each filled up to whole blocks."""
        generator = torch.Generator().manual_seed(seed)
        side, orders = self.side(shape), []
        for size, count in zip(shape[-2:], self.counts(shape), strict=True):
            drawn = torch.randperm(size, generator=generator)
            orders.append(torch.cat((drawn, torch.arange(size, count * side))))
        return torch.cat(orders)

    def turn(self, base: Tensor, order: Tensor, x: Tensor) -> Tensor:
        """R W0 P^T.  base: (..., out, in), order: (..., blocks * b), x: (..., blocks, b, b)"""
        rows, columns = self._orders(base, order)
        turned = _gather(_gather(self._padded(base), rows).mT, columns).mT
        left, right = self.chart.rotation(x).split(self.counts(base.shape), -3)
        turned = _apply(right, _apply(left, turned).mT)
        back = _gather(_gather(turned, columns.argsort(-1)).mT, rows.argsort(-1))
        return back[..., : base.shape[-2], : base.shape[-1]]

    def pull_back(self, gradient: Tensor, base: Tensor, order: Tensor, x: Tensor) -> Tensor:
        """The gradient in x, for the gradient in R W0 P^T."""
        rows, columns = self._orders(base, order)
        w, g = (_gather(_gather(self._padded(y), rows).mT, columns).mT for y in (base, gradient))
        left, right = self.chart.rotation(x).split(self.counts(base.shape), -3)
        side = x.shape[-1]
        in_left = _cut(g, side) @ _cut(_apply(right, w.mT).mT, side).mT
        in_right = _cut(g.mT, side) @ _cut(_apply(left, w).mT, side).mT
        return self.chart.pull_back(x, torch.cat((in_left, in_right), -3))

    def _padded(self, w: Tensor) -> Tensor:
        side, counts = self.side(w.shape), self.counts(w.shape)
        return pad(w, (0, counts[1] * side - w.shape[-1], 0, counts[0] * side - w.shape[-2]))

    def _orders(self, w: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        side = self.side(w.shape)
        rows, columns = order.long().split([count * side for count in self.counts(w.shape)], -1)
        return rows, columns


def _gather(w: Tensor, rows: Tensor) -> Tensor:
    return w.gather(-2, rows[..., :, None].expand(w.shape))


def _cut(w: Tensor, side: int) -> Tensor:
    """(..., rows, columns) as blocks of rows: (..., blocks, side, columns)."""
    return w.unflatten(-2, (-1, side))


def _apply(rotations: Tensor, w: Tensor) -> Tensor:
    return (rotations @ _cut(w, rotations.shape[-1])).flatten(-3, -2)
