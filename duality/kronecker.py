"""How Kronecker metrics are kept: averaged moments along each dim, and their cached roots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from torch import Tensor

from modula.duality.coordinates import Applied, Coordinates, coordinates, describe, with_cost_of
from modula.duality.program import Line, Slot, line
from modula.kernels import root, second_moment
from modula.kernels.op import Cost, Op, Shape
from modula.norms.base import Blocks
from modula.norms.coordinates import Along, Elementwise, Inverse, LinearMap, spread
from modula.norms.kronecker import Dense, DiagonalMode, Flat, Kronecker, Mode
from modula.norms.metric import Memory
from modula.norms.vector import L2

FEW_BLOCKS = 8  # a weight up to this many times longer than wide is cut into square blocks
ROOM = 2.0  # samples for each one that the existence of the KL fit needs


@dataclass(frozen=True)
class InverseAlong:
    """C whose inverse, a symmetric matrix or a diagonal, is known along one dim."""

    dim: int
    ndim: int
    dense: bool

    def __call__(self, *tensors: Tensor) -> LinearMap:
        (root,) = tensors
        if self.dense:
            return Inverse(Along(root, self.dim, self.ndim))
        return Inverse(Elementwise(spread(root, self.dim, self.ndim)))

    def __str__(self) -> str:
        return f"dim {self.dim}"

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        size = shape[self.dim] if self.dense else 1
        return Cost(2.0 * prod(shape) * size, 2.0 * itemsize * prod(shape))


@dataclass(frozen=True)
class Fitted:
    """A Kronecker metric made to fit a shape: what is estimated, dim by dim.

    view   how the weight is cut and merged first, None where it is left as it is
    shape  of one block, with the dims before it that count blocks
    modes  kind of factor of each dim of a block
    """

    metric: Kronecker
    view: Blocks | None
    shape: tuple[int, ...]
    modes: tuple[Mode, ...]

    @property
    def block(self) -> tuple[int, ...]:
        return self.shape[len(self.shape) - len(self.modes) :]

    @property
    def counted(self) -> tuple[int, ...]:
        """The dims that count blocks."""
        return self.shape[: len(self.shape) - len(self.modes)]

    def __str__(self) -> str:
        kinds = " x ".join(
            f"{type(mode).__name__.removesuffix('Mode').lower()} {size}"
            for mode, size in zip(self.modes, self.block, strict=True)
        )
        blocks = prod(self.counted)
        return kinds if blocks == 1 else f"{blocks} blocks of {kinds}"


def fit(metric: Kronecker, shape: Shape) -> Fitted:
    """Choose view and modes for a weight: merge small dims, cut large ones, see what can exist.

    Raises ValueError if modes are declared for another number of dims.
    """
    given = isinstance(metric.modes, tuple)
    merged, names, groups = _merged(tuple(shape), merge=not given)
    ndim = len(merged)
    modes = metric.modes if isinstance(metric.modes, tuple) else (metric.modes,) * ndim
    if len(modes) != ndim:
        raise ValueError(
            f"{metric} declares {len(modes)} modes for a weight of {ndim} dims {merged}: "
            "give one for each dim, or a single one for all"
        )
    taps = tuple(prod(shape[names.index(n)] for n in group[1:]) for group in groups)
    counts = _blocks(metric, merged, modes, taps)
    sizes = tuple(size // count for size, count in zip(merged, counts, strict=True))
    modes = _estimable(metric, sizes, modes)
    if prod(counts) == 1 and merged == tuple(shape):
        return Fitted(metric, None, merged, modes)
    return Fitted(metric, _view(names, groups, counts, sizes), (*counts, *sizes), modes)


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
    square = metric.square and len(shape) == 2 and all(isinstance(mode, Dense) for mode in modes)
    short = min(shape, default=1)
    counts = []
    for size, mode, tap in zip(shape, modes, taps, strict=True):
        ways = [
            n for n in range(1, FEW_BLOCKS + 2) if size % n == 0 and (tap == 1 or n in (1, tap))
        ]
        fitting = [n for n in ways if size // n <= metric.max_dim]
        squares = [n for n in fitting if square and size == n * short and short > 1]
        wanted = squares or fitting
        counts.append(wanted[0] if isinstance(mode, Dense) and wanted else 1)
    return tuple(counts)


def _estimable(
    metric: Kronecker, shape: tuple[int, ...], modes: tuple[Mode, ...]
) -> tuple[Mode, ...]:
    """Dense modes that are too wide, or that the fit cannot tell from so few samples: diagonal.

    Two dense factors of a matrix exist from N > m/n + n/m samples on: those of the memory, times
    the sizes of flat dims.     Source: Drton, Kuriki, Hoff 2021, arXiv:2005.13483.
    """
    modes = tuple(
        DiagonalMode() if isinstance(mode, Dense) and size > metric.max_dim else mode
        for mode, size in zip(modes, shape, strict=True)
    )
    flat = prod(s for s, mode in zip(shape, modes, strict=True) if isinstance(mode, Flat))
    samples = metric.memory.samples * flat
    curved = (i for i, mode in enumerate(modes) if not isinstance(mode, Flat))
    for i in sorted(curved, key=lambda i: -shape[i]):
        others = prod(shape) // (shape[i] * flat)
        scarce = ROOM * (shape[i] / others + others / shape[i]) > samples
        two = sum(isinstance(mode, Dense) for mode in modes) > 1 and isinstance(modes[i], Dense)
        if metric.fit.coupled and scarce and two and shape[i] > others:
            modes = (*modes[:i], DiagonalMode(), *modes[i + 1 :])
    return modes


def _view(
    names: list[str], groups: list[list[str]], counts: tuple[int, ...], sizes: tuple[int, ...]
) -> Blocks:
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
        tails.append(f"({' '.join(tail)})" if len(tail) > 1 else tail[0])
    pattern = f"{' '.join(left[name] for name in names)} -> {' '.join(heads + tails)}"
    return Blocks(L2(len(groups)), pattern, tuple(known))


@describe.register
def _(metric: Kronecker, shape: Shape) -> str:
    return f"{type(metric.fit).__name__}: {fit(metric, shape)}, power {metric.power:g}"


@coordinates.register
def _(metric: Kronecker, shape: Shape, whole: bool) -> Coordinates:
    fitted = fit(metric, shape)
    estimated = [i for i, mode in enumerate(fitted.modes) if not isinstance(mode, Flat)]
    keeper = _Keeper(fitted, estimated, whole)
    lines = (*keeper.observe(), *keeper.refresh())
    return Coordinates(
        before=lines if metric.instant else (),
        core=tuple(keeper.applied(i) for i in estimated),
        after=() if metric.instant else lines,
        slots=keeper.slots(),
        view=fitted.view,
    )


@dataclass(frozen=True)
class _Keeper:
    """Writes the lines for the factors `estimated` of a fitted metric."""

    fitted: Fitted
    estimated: list[int]
    whole: bool

    @property
    def metric(self) -> Kronecker:
        return self.fitted.metric

    @property
    def ndim(self) -> int:
        return len(self.fitted.modes)

    def dense(self, i: int) -> bool:
        return isinstance(self.fitted.modes[i], Dense)

    def dim(self, i: int) -> int:
        return i - self.ndim

    @property
    def coupled(self) -> bool:
        return self.metric.fit.coupled and len(self.estimated) > 1

    def power(self) -> float:
        """Of a factor, in the root that the direction is multiplied by."""
        share = self.metric.fit.factor_power(len(self.estimated))
        return self.metric.power * share * (1.0 if self.whole else 0.5)

    @property
    def separate(self) -> bool:
        """Whether the root that whitens the statistic is not the one of the direction."""
        return self.coupled and self.power() != 0.5

    def whitener(self, i: int) -> str:
        return f"whitener_{i}" if self.separate else f"root_{i}"

    def root_shape(self, i: int) -> tuple[int, ...]:
        size = self.fitted.block[i]
        return (*self.fitted.counted, size, size) if self.dense(i) else (*self.fitted.counted, size)

    def slots(self) -> tuple[tuple[str, Slot], ...]:
        found: list[tuple[str, Slot]] = [("seen", Slot(self.fitted.counted))]
        first = self.metric.memory.first
        for i in self.estimated:
            shape, dense = self.root_shape(i), self.dense(i)
            start = Slot(shape, diagonal=first) if dense else Slot(shape, fill=first)
            found.append((f"factor_{i}", start))
            names = {f"root_{i}"} | ({self.whitener(i)} if self.coupled else set())
            for name in sorted(names):
                exponent = 0.5 if name == self.whitener(i) and self.coupled else self.power()
                at = first**-exponent if first else 1.0
                found.append((name, Slot(shape, diagonal=at) if dense else Slot(shape, fill=at)))
            if dense:
                found.append((f"rejected_{i}", Slot(self.fitted.counted)))
        return tuple(found)

    def observe(self) -> list[Line]:
        source = "sample"
        lines = [line("seen", second_moment.tally, "seen", source)]
        if self.coupled and not self.metric.memory.first:
            for i in self.estimated:
                lines += self._first_scale(i, source)
        for i in self.estimated:
            lines += self._whitened_along_others(i, source)
        lines += [self._average(i, source) for i in self.estimated]
        return lines + (self._balance() if self.coupled and self.metric.balance else [])

    def _first_scale(self, i: int, source: str) -> list[Line]:
        # Each of the k factors takes an equal part of the gradient's mean square.
        share = 2 / len(self.estimated)
        powers = {f"factor_{i}": share, f"root_{i}": -share * self.power()}
        powers |= {self.whitener(i): -share / 2}
        return [
            line(
                name,
                second_moment.first_scale,
                *(name, source, "seen"),
                power=power,
                dense=self.dense(i),
            )
            for name, power in powers.items()
        ]

    def _whitened_along_others(self, i: int, source: str) -> list[Line]:
        if not self.coupled:
            return []
        lines, read = [], source
        for j in self.estimated:
            if j != i:
                lines.append(self._map(j, self.whitener(j)).down(read, f"half_{i}"))
                read = f"half_{i}"
        return lines

    def _map(self, i: int, root: str) -> Applied:
        build = InverseAlong(self.dim(i), self.ndim, self.dense(i))
        return Applied(build, (root,), self.fitted.shape)

    def _average(self, i: int, source: str) -> Line:
        op = second_moment.average_gram if self.dense(i) else second_moment.average_squares
        memory: Memory = self.metric.memory
        read = f"half_{i}" if self.coupled else source
        options = {
            "dim": self.dim(i),
            "ndim": self.ndim,
            "share": self.metric.fit.share(self.fitted.block[i], prod(self.fitted.block)),
            "beta": memory.beta,
            "unbiased": memory.unbiased,
        }
        each = line(f"factor_{i}", op, f"factor_{i}", read, "seen", **options)
        return with_cost_of(each, self.fitted.shape)

    def _balance(self) -> list[Line]:
        lines = []
        for i in self.estimated:
            order = [i, *(j for j in self.estimated if j != i)]
            names = (f"factor_{j}" for j in order)
            dense = tuple(self.dense(j) for j in order)
            lines.append(line(f"gauge_{i}", second_moment.gauge, *names, dense=dense))
        for i in self.estimated:
            powers = {f"factor_{i}": -1.0, self.whitener(i): 0.5, f"root_{i}": self.power()}
            if not self.separate:
                powers = {f"factor_{i}": -1.0, f"root_{i}": self.power()}
            lines += [
                with_cost_of(
                    line(name, second_moment.regauge, name, f"gauge_{i}", power=power),
                    self.root_shape(i),
                )
                for name, power in powers.items()
            ]
        return lines

    def refresh(self) -> list[Line]:
        lines = []
        for i in self.estimated:
            if self.dense(i):
                names = (f"rejected_{i}", f"factor_{i}")
                lines.append(self._now_and_then(line(names[0], root.rejected, *names), i))
            powers = {f"root_{i}": self.power()}
            powers |= {self.whitener(i): 0.5} if self.separate else {}
            lines += [self._root(i, name, power) for name, power in powers.items()]
        return lines

    def _root(self, i: int, name: str, power: float) -> Line:
        op: Op = root.inverse_root if self.dense(i) else root.inverse_root_diagonal
        trace = self.metric.fit.trace_power(len(self.estimated))
        options = {"power": power, "damping": self.metric.damping}
        options |= {"trace_power": trace} if trace else {}
        return self._now_and_then(line(name, op, f"factor_{i}", name, **options), i)

    def _now_and_then(self, each: Line, i: int) -> Line:
        every = self.metric.every if self.dense(i) else 1
        return replace(with_cost_of(each, self.root_shape(i)), every=every)

    def applied(self, i: int) -> Applied:
        """The map of dim i in the chain."""
        return self._map(i, f"root_{i}")
