"""A layer's weight seen as a matrix, the way that metrics of its inputs and outputs see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from modula.duality.metrics.block_layout import FEW_BLOCKS
from modula.norms.blocks import BlockView

DIMS = {"outputs": -2, "inputs": -1}


@dataclass(frozen=True)
class Matrix:
    """A layer's weight seen as a matrix (outputs, inputs), perhaps cut into blocks.

    shape         of the weight: (out, in, taps...), or (in, out) if `inputs_first`
    cut           the sides that are cut: into square blocks if a side is a small multiple of the
                  other and `square`, and where it is wider than max_dim, as far as channels allow
    """

    shape: tuple[int, ...]
    inputs_first: bool = False
    cut: tuple[str, ...] = ()
    square: bool = False
    max_dim: int = 0

    def __post_init__(self) -> None:
        if len(self.shape) < 2 or (self.inputs_first and len(self.shape) != 2):
            raise ValueError(
                f"a metric of a layer's inputs and outputs needs a weight (out, in, ...), or a "
                f"matrix (in, out); got {self.shape}: declare a metric of gradients instead"
            )

    @property
    def sizes(self) -> dict[str, int]:
        """How many outputs and inputs there are."""
        first, *rest = self.shape
        ends = (rest[0], first) if self.inputs_first else (first, prod(rest))
        return dict(zip(DIMS, ends, strict=True))

    @cached_property
    def counts(self) -> dict[str, int]:
        """Into how many blocks each side is cut; taps stay together."""
        cuttable = {**self.sizes, "inputs": self.shape[0 if self.inputs_first else 1]}
        return {side: self._count(side, cuttable[side]) if side in self.cut else 1 for side in DIMS}

    def _count(self, side: str, channels: int) -> int:
        size, other = self.sizes[side], prod(self.sizes.values()) // self.sizes[side]
        ways = [n for n in range(1, channels + 1) if channels % n == 0]
        fitting = [n for n in ways if size // n <= self.max_dim] or [channels]
        squares = [n for n in fitting if n <= FEW_BLOCKS and size == n * other and other > 1]
        return squares[0] if squares and self.square else fitting[0]

    @property
    def block(self) -> dict[str, int]:
        """Outputs and inputs of one block."""
        return {side: size // self.counts[side] for side, size in self.sizes.items()}

    @property
    def is_cut(self) -> bool:
        return prod(self.counts.values()) > 1

    @property
    def view(self) -> BlockView | None:
        """(out blocks, in blocks, out, in), or (out, in) where nothing is cut."""
        if not self.is_cut and len(self.shape) == 2 and not self.inputs_first:
            return None
        taps = [f"k{i}" for i in range(len(self.shape) - 2)]
        heads = ["a", "b"] if self.is_cut else []
        out, channels = ("(a o)", "(b i)") if self.is_cut else ("o", "i")
        left = [channels, out] if self.inputs_first else [out, channels, *taps]
        inputs = f"(i {' '.join(taps)})" if taps else "i"
        pattern = f"{' '.join(left)} -> {' '.join([*heads, 'o', inputs])}"
        sizes = (("a", self.counts["outputs"]), ("b", self.counts["inputs"]))
        return BlockView(pattern, sizes if self.is_cut else ())

    @property
    def viewed(self) -> tuple[int, ...]:
        """The shape in that view."""
        heads = tuple(self.counts.values()) if self.is_cut else ()
        return (*heads, *self.block.values())

    def blocks_of(self, side: str) -> tuple[int, ...]:
        """The dims of a side's factor that count blocks: (), (a, 1) or (1, b)."""
        if not self.is_cut:
            return ()
        return tuple(count if each == side else 1 for each, count in self.counts.items())

    def factor(self, side: str) -> tuple[int, ...]:
        """The shape of a side's factor."""
        return (*self.blocks_of(side), self.block[side], self.block[side])
