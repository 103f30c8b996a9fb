"""How a weight is cut into blocks, and which factors a Kronecker metric estimates of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, singledispatch
from math import prod

from modula.duality.program.slot import Slot
from modula.kernels.moments.spiked import SpikedMatrix
from modula.kernels.moments.structure import DIAGONAL, FULL, LOWER, BlockMatrix, Structure
from modula.norms.blocks import BlockView
from modula.norms.metrics.kronecker import (
    BlockDiagonal,
    Dense,
    DenseIfShortest,
    DiagonalMode,
    Flat,
    Kronecker,
    Mode,
    SpikeAndFlat,
    Triangular,
)

FEW_BLOCKS = 8  # a weight up to this many times longer than wide is cut into square blocks
ROOM = 2.0  # samples for each one that the existence of the KL fit needs


WHOLE = (Dense, Triangular)  # modes that are cut into blocks where that makes them square


@dataclass(frozen=True)
class Factor:
    """One factor of a Kronecker product: the dim that it stands along, and what is kept of it.

    name       in the names of its state: factor_{name}
    dim        counted from the last
    size       of that dim in one block
    mode       what is declared of it
    kind       what is kept of it
    blocks     the dims before it that count its blocks
    shape      of what is kept, with these dims
    is_matrix  whether it is a matrix, or made of some, and not a few numbers
    """

    name: str
    dim: int
    size: int
    mode: Mode
    kind: Structure
    blocks: tuple[int, ...]
    shape: tuple[int, ...]
    is_matrix: bool

    def identity(self, size: float = 1.0) -> Slot:
        """A state that begins as size I."""
        return Slot(self.shape, diagonal=size) if self.is_matrix else Slot(self.shape, fill=size)


@dataclass(frozen=True)
class BlockLayout:
    """How a weight is cut into blocks, and which factors each block has.

    view     how the weight is cut and merged first, None where it is left as it is
    blocks   the dims that count blocks
    block    the shape of one block
    shape    of the weight in that view: both
    modes    kind of factor of each dim of a block
    factors  of the dims that are not flat
    """

    view: BlockView | None
    blocks: tuple[int, ...]
    block: tuple[int, ...]
    shape: tuple[int, ...]
    modes: tuple[Mode, ...]
    factors: tuple[Factor, ...]

    @property
    def ndim(self) -> int:
        """How many dims a block has."""
        return len(self.block)

    def only(self, *modes: type[Mode]) -> BlockLayout:
        """Itself, if it has no modes but these.

        Raises ValueError for another one.
        """
        for mode in self.modes:
            if not isinstance(mode, modes):
                names = ", ".join(f"{each.__name__}()" for each in modes)
                raise ValueError(f"no metric of this kind keeps {mode} factors: give it {names}")
        return self

    def __str__(self) -> str:
        kinds = " x ".join(mode.on(size) for mode, size in zip(self.modes, self.block, strict=True))
        blocks = prod(self.blocks)
        return kinds if blocks == 1 else f"{blocks} blocks of {kinds}"


def layout_of(
    view: BlockView | None,
    blocks: tuple[int, ...],
    block: tuple[int, ...],
    modes: tuple[Mode, ...],
) -> BlockLayout:
    """The layout with these modes, and its factors, each of which every block has for its own."""
    factors = tuple(
        factor_of(str(i), i - len(block), size, mode, blocks)
        for i, (size, mode) in enumerate(zip(block, modes, strict=True))
        if not isinstance(mode, Flat)
    )
    return BlockLayout(view, blocks, block, (*blocks, *block), modes, factors)


def factor_of(name: str, dim: int, size: int, mode: Mode, blocks: tuple[int, ...]) -> Factor:
    """The factor along one dim."""
    kind = structure_of(mode, size)
    shape = (*blocks, *kind.shape(size))
    return Factor(name, dim, size, mode, kind, blocks, shape, is_matrix=kind.ndim > 1)


@singledispatch
def structure_of(mode: Mode, size: int) -> Structure:
    """What is kept of a factor of this mode and size."""
    raise TypeError(f"{mode} has no structure of its own")


@structure_of.register
def _(mode: Dense, size: int) -> Structure:
    return FULL


@structure_of.register
def _(mode: Triangular, size: int) -> Structure:
    return LOWER


@structure_of.register
def _(mode: DiagonalMode, size: int) -> Structure:
    return DIAGONAL


@structure_of.register
def _(mode: SpikeAndFlat, size: int) -> Structure:
    return SpikedMatrix(size, mode.rank)


@structure_of.register
def _(mode: BlockDiagonal, size: int) -> Structure:
    return BlockMatrix(size // mode.size)


@cache  # asked for by the plan's text, by the program and by its neighbours' checks
def block_layout(metric: Kronecker, shape: tuple[int, ...]) -> BlockLayout:
    """The layout of a weight: dims of size one merged, large ones cut, and modes that can exist.

    Raises ValueError if modes are declared for another number of dims.
    """
    given = isinstance(metric.modes, tuple)
    merged, names, groups = _merged(shape, merge=not given)
    ndim = len(merged)
    modes = metric.modes if isinstance(metric.modes, tuple) else (metric.modes,) * ndim
    if len(modes) != ndim:
        raise ValueError(
            f"{metric} declares {len(modes)} modes for a weight of {ndim} dims {merged}: "
            "give one for each dim, or a single one for all"
        )
    modes = _chosen(merged, modes)
    taps = tuple(prod(shape[names.index(n)] for n in group[1:]) for group in groups)
    counts = _blocks(metric, merged, modes, taps)
    sizes = tuple(size // count for size, count in zip(merged, counts, strict=True))
    modes = _estimable(metric, sizes, modes)
    if prod(counts) == 1 and merged == shape:
        return layout_of(None, (), merged, modes)
    return layout_of(_view(names, groups, counts, sizes), counts, sizes, modes)


def _chosen(shape: tuple[int, ...], modes: tuple[Mode, ...]) -> tuple[Mode, ...]:
    """The modes, those that depend on the shape decided."""
    shortest = shape.index(min(shape))
    return tuple(
        _decided(mode, size, i == shortest)
        for i, (mode, size) in enumerate(zip(modes, shape, strict=True))
    )


def _decided(mode: Mode, size: int, is_shortest: bool) -> Mode:
    if isinstance(mode, DenseIfShortest):
        return Dense() if is_shortest else Flat()
    if isinstance(mode, BlockDiagonal):
        rows = max(n for n in range(1, min(mode.size, size) + 1) if size % n == 0)
        whole = {1: DiagonalMode(), size: Dense()}
        return whole.get(rows, BlockDiagonal(rows))
    if isinstance(mode, SpikeAndFlat) and mode.rank >= size:
        return Dense()
    return mode


def _merged(
    shape: tuple[int, ...], merge: bool
) -> tuple[tuple[int, ...], list[str], list[list[str]]]:
    """Sizes, names of all axes, and for each dim the axes in it: taps join fan_in, ones go."""
    names = [f"d{i}" for i in range(len(shape))]
    groups = [[n] for n, size in zip(names, shape, strict=True) if size > 1 or not merge]
    groups = groups or [names[:1]]
    if merge and len(shape) > 3 and len(groups) > 2:  # out, in, taps: a convolution
        groups = [groups[0], [name for group in groups[1:] for name in group]]
    size_of = dict(zip(names, shape, strict=True))
    return tuple(prod(size_of[n] for n in group) for group in groups), names, groups


def _blocks(
    metric: Kronecker,
    shape: tuple[int, ...],
    modes: tuple[Mode, ...],
    taps: tuple[int, ...],
) -> tuple[int, ...]:
    """Into how many blocks each dim is cut; one with taps in it by its taps or not at all."""
    square = metric.square and len(shape) == 2 and all(isinstance(mode, WHOLE) for mode in modes)
    short = min(shape, default=1)
    counts = []
    for size, mode, tap in zip(shape, modes, taps, strict=True):
        ways = [
            n for n in range(1, FEW_BLOCKS + 2) if size % n == 0 and (tap == 1 or n in (1, tap))
        ]
        fitting = [n for n in ways if size // n <= metric.max_dim]
        squares = [n for n in fitting if square and size == n * short and short > 1]
        wanted = squares or fitting
        counts.append(wanted[0] if isinstance(mode, WHOLE) and wanted else 1)
    return tuple(counts)


def _estimable(
    metric: Kronecker, shape: tuple[int, ...], modes: tuple[Mode, ...]
) -> tuple[Mode, ...]:
    """Dense modes that are too wide, or that the fit cannot tell from so few samples: diagonal.

    Two dense factors of a matrix exist from N > m/n + n/m samples on: those of the memory, times
    the sizes of flat dims.     Source: Drton, Kuriki, Hoff 2021, arXiv:2005.13483.
    """
    modes = tuple(
        DiagonalMode() if isinstance(mode, WHOLE) and size > metric.max_dim else mode
        for mode, size in zip(modes, shape, strict=True)
    )
    flat = prod(s for s, mode in zip(shape, modes, strict=True) if isinstance(mode, Flat))
    samples = metric.memory.samples * flat
    curved = (i for i, mode in enumerate(modes) if not isinstance(mode, Flat))
    for i in sorted(curved, key=lambda i: -shape[i]):
        others = prod(shape) // (shape[i] * flat)
        scarce = ROOM * (shape[i] / others + others / shape[i]) > samples
        two = sum(isinstance(mode, WHOLE) for mode in modes) > 1 and isinstance(modes[i], WHOLE)
        if metric.fit.coupled and scarce and two and shape[i] > others:
            modes = (*modes[:i], DiagonalMode(), *modes[i + 1 :])
    return modes


def _view(
    names: list[str], groups: list[list[str]], counts: tuple[int, ...], sizes: tuple[int, ...]
) -> BlockView:
    """The einops view from a weight to (counts..., sizes...)."""
    left = {name: "1" for name in names}
    heads, tails, known = [], [], []
    for i, (group, count) in enumerate(zip(groups, counts, strict=True)):
        left |= {name: name for name in group}
        head, tail = "1", group
        if count > 1 and len(group) > 1:  # one block a tap
            head, tail = f"({' '.join(group[1:])})", group[:1]
        elif count > 1:
            head, left[group[0]] = f"b{i}", f"(b{i} {group[0]})"
            known.append((head, count))
        heads.append(head)
        tails.append(f"({' '.join(tail)})" if len(tail) > 1 else "".join(tail) or "1")
    pattern = f"{' '.join(left[name] for name in names)} -> {' '.join(heads + tails)}"
    return BlockView(pattern, tuple(known))
