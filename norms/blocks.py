"""The blocks of a weight: heads, Q, K and V of a fused projection, convolution taps, experts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NoReturn

import torch
from einops import EinopsError, rearrange
from torch import Tensor


@dataclass(frozen=True)
class BlockView:
    """A weight cut into blocks by an einops pattern: axes of the weight -> axes of the blocks.

        heads of a projection       (h d) i -> h d i          h=12
        Q, K and V in one weight    (qkv o) i -> qkv o i      qkv=3
        taps of a convolution       o i h w -> h w o i
        experts                     e o i -> e o i

    sizes  (axis, size) for each axis whose size does not follow from the weight's shape

    The first axes on the right count the blocks, the last ones are those of a block: how many, says
    who reads them, such as the norm of `norm.on(pattern, **sizes)`.  Dims before those of the
    weight are a batch.
    """

    pattern: str
    sizes: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if self.pattern.count("->") != 1 or "..." in self.pattern:
            self.refuse("it needs one '->' and no '...': batch dims are taken along by themselves")
        if not all(size > 0 for _, size in self.sizes):
            self.refuse("sizes are whole numbers from 1 up")
        _ = self.ndim_of_blocks  # a wrong pattern is refused here, not at the first weight

    @property
    def ndim(self) -> int:
        """How many dims one weight has."""
        return len(self._left)

    @cached_property
    def ndim_of_blocks(self) -> int:
        """How many dims the blocks of one weight have, with those that count them."""
        smallest = [prod(self._known(axes)) for axes in self._left]
        probe = torch.empty(smallest, device="meta")
        return self._rearrange(probe, self.pattern, dict(self.sizes), "").ndim

    def to_blocks(self, x: Tensor) -> Tensor:
        """The weights of x: (..., *left) as blocks: (..., *right)."""
        left, right = self.pattern.split("->")
        pattern = f"... {left} -> ... {right}"
        return self._rearrange(x, pattern, dict(self.sizes), f" of shape {tuple(x.shape)}")

    def from_blocks(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The exact inverse of to_blocks, for weights of this shape (with or without batch)."""
        weight = f" of shape {tuple(shape)}"
        if len(shape) < self.ndim:
            self.refuse(f"its left side has {self.ndim} axes", weight)
        # Back from blocks, einops cannot infer the axes that one dim of the weight was made of.
        sizes = dict(self.sizes)
        for axes, size in zip(self._left, shape[len(shape) - self.ndim :], strict=True):
            known = prod(self._known(axes))
            sizes |= {axis: size // known for axis in axes if axis not in sizes}
        left, right = self.pattern.split("->")
        return self._rearrange(y, f"... {right} -> ... {left}", sizes, weight)

    def refuse(self, reason: str, weight: str = "") -> NoReturn:
        """Raise ValueError: this view does not fit, for this reason."""
        sizes = ", ".join(f"{axis}={size}" for axis, size in self.sizes) or "no sizes"
        raise ValueError(
            f"'{self.pattern}' with {sizes} does not cut a weight{weight} into blocks: {reason}"
        )

    @cached_property
    def _left(self) -> list[list[str]]:
        """The axes of each dim on the left of the pattern: [["h", "d"], ["i"]]."""
        dims = re.findall(r"\([^)]*\)|[^\s()]+", self.pattern.split("->")[0])
        return [[axis for axis in re.findall(r"[^\s()]+", dim) if axis != "1"] for dim in dims]

    def _known(self, axes: list[str]) -> list[int]:
        return [size for axis, size in self.sizes if axis in axes]

    def _rearrange(self, x: Tensor, pattern: str, sizes: dict[str, int], weight: str) -> Tensor:
        try:
            return rearrange(x, pattern, **sizes)
        except EinopsError as error:
            reason = str(error).strip().splitlines()[-1].strip()
        self.refuse(reason, weight)
