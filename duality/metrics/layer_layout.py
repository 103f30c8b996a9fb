"""A layer's weight as a matrix (outputs, inputs), perhaps cut into blocks, and its two factors."""

from __future__ import annotations

import sys
from functools import cache
from math import prod

from modula.duality.metrics.block_layout import FEW_BLOCKS, BlockLayout, factor_of
from modula.kernels.op import Shape
from modula.norms.blocks import BlockView
from modula.norms.metrics.kronecker import Dense, Flat

SIDES = ("outputs", "inputs")  # of which the dims are -2 and -1


def matrix_shape(shape: Shape, inputs_first: bool) -> tuple[int, int]:
    """(outputs, inputs) of a weight (out, in, taps...), or (in, out) if `inputs_first`.

    Raises ValueError for a weight that has not got these two sides.
    """
    if len(shape) < 2 or (inputs_first and len(shape) != 2):
        raise ValueError(
            f"a metric of a layer's inputs and outputs needs a weight (out, in, ...), or a "
            f"matrix (in, out); got {tuple(shape)}: declare a metric of gradients instead"
        )
    return (shape[1], shape[0]) if inputs_first else (shape[0], prod(shape[1:]))


@cache
def layer_layout(
    shape: tuple[int, ...],
    sides: tuple[str, ...],
    inputs_first: bool = False,
    square: bool = False,
    max_dim: int = sys.maxsize,
) -> BlockLayout:
    """The layout of a layer's weight with a dense factor for each of these sides.

    Blocks in one row share the factor of their outputs, those in one column that of their inputs:
    its `blocks` are (a, 1) or (1, b).  A side is cut into square blocks if it is a small multiple
    of the other and `square`, and where it is wider than max_dim, as far as channels allow: taps
    stay together.

    Raises ValueError for a weight that has not got two sides.
    """
    sizes = matrix_shape(shape, inputs_first)
    channels = (sizes[0], shape[0 if inputs_first else 1])
    counts = tuple(
        _count(size, other, ways, square, max_dim) if side in sides else 1
        for side, size, other, ways in zip(SIDES, sizes, sizes[::-1], channels, strict=True)
    )
    block = tuple(size // count for size, count in zip(sizes, counts, strict=True))
    blocks = counts if prod(counts) > 1 else ()
    owned = {"outputs": (counts[0], 1), "inputs": (1, counts[1])}
    factors = tuple(
        factor_of(side, dim, size, Dense(), owned[side] if blocks else ())
        for side, dim, size in zip(SIDES, (-2, -1), block, strict=True)
        if side in sides
    )
    modes = tuple(Dense() if side in sides else Flat() for side in SIDES)
    view = matrix_view(shape, inputs_first, blocks)
    return BlockLayout(view, blocks, block, (*blocks, *block), modes, factors)


def _count(size: int, other: int, channels: int, square: bool, max_dim: int) -> int:
    """Into how many blocks a side is cut."""
    ways = [n for n in range(1, channels + 1) if channels % n == 0]
    fitting = [n for n in ways if size // n <= max_dim] or [channels]
    squares = [n for n in fitting if n <= FEW_BLOCKS and size == n * other and other > 1]
    return squares[0] if squares and square else fitting[0]


def matrix_view(
    shape: Shape, inputs_first: bool = False, blocks: tuple[int, ...] = ()
) -> BlockView | None:
    """From a weight to (out blocks, in blocks, out, in), or to (out, in) where nothing is cut."""
    if not blocks and len(shape) == 2 and not inputs_first:
        return None
    taps = [f"k{i}" for i in range(len(shape) - 2)]
    heads = ["a", "b"] if blocks else []
    out, channels = ("(a o)", "(b i)") if blocks else ("o", "i")
    left = [channels, out] if inputs_first else [out, channels, *taps]
    inputs = f"(i {' '.join(taps)})" if taps else "i"
    pattern = f"{' '.join(left)} -> {' '.join([*heads, 'o', inputs])}"
    return BlockView(pattern, tuple(zip(heads, blocks, strict=True)))
