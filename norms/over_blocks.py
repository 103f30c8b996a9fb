"""Norms over the blocks of a weight, such as Q, K and V or heads: sum, or root of squares.

The largest over the blocks, `norm.on(pattern)`, is Blocks in base.py; the cut is in blocks.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from torch import Tensor

from modula.norms.base import Blocks, Norm
from modula.norms.numerics import add_dims, decreasing_root, ratio
from modula.norms.vector import L1, L2


@dataclass(frozen=True, repr=False)
class OverBlocks(Norm, ABC):
    """||x|| = outer(||x_1||, ||x_2||, ...) for the blocks x_b that norm.on(pattern) cuts x into.

        ||g||_* = outer.dual(||g_1||_*, ||g_2||_*, ...)

    The duality map of a block is its own, times a share; the shares are the duality map of `outer`
    at the dual norms.  With the largest norm for `outer` it is norm.on(pattern) itself.
    """

    blocks: Blocks

    def __post_init__(self) -> None:
        if not isinstance(self.blocks, Blocks):
            name = type(self).__name__
            raise ValueError(
                f"{name} needs a norm on blocks, got {self.blocks!r}: write for example "
                f'{name}(RMSToRMS().on("(h d) i -> h d i", h=4))'
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.blocks})"

    @property
    def ndim(self) -> int:
        return self.blocks.ndim

    @property
    @abstractmethod
    def outer(self) -> L1 | L2:
        """The norm of the blocks' norms."""

    def check_shape(self, shape: tuple[int, ...]) -> None:
        self.blocks.check_shape(shape)

    def __call__(self, x: Tensor) -> Tensor:
        return self.outer(self.blocks.each(self.blocks.norm, self.prepare(x))).to(x.dtype)

    def dual(self, g: Tensor) -> Tensor:
        return self.outer.dual(self._duals(self.prepare(g))).to(g.dtype)

    def duality_map(self, g: Tensor) -> Tensor:
        prepared = self.prepare(g)
        shares = self.outer.duality_map(self._duals(prepared))
        maps = self.blocks.norm.duality_map(self.blocks.to_blocks(prepared))
        shares = shares.reshape(*maps.shape[: maps.ndim - self.blocks.norm.ndim])
        stretched = add_dims(shares, self.blocks.norm.ndim) * maps
        return self.blocks.from_blocks(stretched, g.shape).to(g.dtype)

    def _duals(self, g: Tensor) -> Tensor:
        return self.blocks.each(self.blocks.norm.dual, g)


@dataclass(frozen=True, repr=False)
class SumOverBlocks(OverBlocks):
    """||x|| = sum_b ||x_b||,  ||g||_* = max_b ||g_b||_*: only the block with the largest one moves.

    The proximal map shrinks each block by itself; of rows in L2 it is the group lasso's.

    >>> import torch
    >>> from modula.norms import L2
    >>> rows = SumOverBlocks(L2().on("o i -> o i"))
    >>> rows.prox(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), 1.0)
    tensor([[2.4000, 3.2000],
            [0.0000, 0.0000]])
    """

    @property
    def outer(self) -> L1:
        return L1()

    def dual_norm(self) -> Norm:
        return replace(self.blocks, norm=self.blocks.norm.dual_norm())

    def _shrunk(self, unit: Tensor, step: Tensor) -> Tensor:
        return self.blocks.move_each(self.blocks.norm.prox, unit, step)

    def _nearest(self, unit: Tensor, radius: Tensor) -> Tensor:
        """The proximal map with the step that leaves a norm of `radius`."""
        step = decreasing_root(lambda t: self(self._shrunk(unit, t)) - radius, self.dual(unit))
        y = self._shrunk(unit, step)
        fit, inside = ratio(radius, self(y)).clamp(max=1), self(unit) <= radius
        return unit.where(add_dims(inside, self.ndim), add_dims(fit, self.ndim) * y)


@dataclass(frozen=True, repr=False)
class RootOverBlocks(OverBlocks):
    """||x|| = sqrt(sum_b ||x_b||^2): blocks move in proportion to their dual norms.

    Its dual is of the same kind; projections have no closed form.
    """

    @property
    def outer(self) -> L2:
        return L2()

    def dual_norm(self) -> Norm:
        return RootOverBlocks(replace(self.blocks, norm=self.blocks.norm.dual_norm()))
