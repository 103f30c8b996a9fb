"""How Kronecker metrics are kept: averaged moments along each dim, and their cached roots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor

from modula.duality.metrics.block_layout import Fitted, fit
from modula.duality.metrics.coordinates import (
    Applied,
    Coordinates,
    coordinates,
    describe,
    with_cost_of,
)
from modula.duality.metrics.spiked import InverseSpiked, Subspace
from modula.duality.program.line import Line, line
from modula.duality.program.slot import Slot, Slots
from modula.kernels.moments import gauge, root, samples, second_moment, spiked
from modula.kernels.moments.structure import Structure
from modula.kernels.op import Cost, Op, Shape
from modula.norms.maps.linear import Along, Elementwise, Inverse, LinearMap, spread
from modula.norms.maps.structured import AlongBlocks
from modula.norms.metrics.kronecker import (
    BlockDiagonal,
    Dense,
    DiagonalMode,
    Flat,
    Kronecker,
    SpikeAndFlat,
)


@dataclass(frozen=True)
class InverseAlong:
    """C whose inverse, a matrix of some structure, is known along one dim."""

    dim: int
    ndim: int
    kind: Structure

    def __call__(self, *tensors: Tensor) -> LinearMap:
        (root,) = tensors
        if self.kind.ndim == 1:
            return Inverse(Elementwise(spread(root, self.dim, self.ndim)))
        along = Along if self.kind.ndim == 2 else AlongBlocks
        return Inverse(along(root, self.dim, self.ndim))

    def __str__(self) -> str:
        return f"dim {self.dim}"

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        width = self.kind.width(shape[self.dim])
        return Cost(2.0 * prod(shape) * width, 2.0 * itemsize * prod(shape))


MODES = (Dense, DiagonalMode, BlockDiagonal, Flat)  # that any factor may have
# Of a diagonal, a matrix and blocks of a matrix, by how many dims each is kept as.
ROOTS: dict[int, Op] = {
    1: root.inverse_root_diagonal,
    2: root.inverse_root,
    3: root.inverse_root_blocks,
}


@describe.register
def _(metric: Kronecker, shape: Shape) -> str:
    return f"{type(metric.fit).__name__}: {fit(metric, shape)}, power {metric.power:g}"


@coordinates.register
def _(metric: Kronecker, shape: Shape, whole: bool) -> Coordinates:
    fitted = fit(metric, shape).only(*MODES, SpikeAndFlat)
    power = metric.power * metric.fit.factor_power(len(fitted.estimated))
    keeper = Keeper(fitted, power if whole else power / 2)
    lines = (*keeper.observe(), *keeper.refresh())
    return Coordinates(
        before=lines if metric.instant else (),
        core=tuple(keeper.inverse(i, f"root_{i}") for i in fitted.estimated),
        after=() if metric.instant else lines,
        slots=keeper.slots(),
        view=fitted.view,
    )


@dataclass(frozen=True)
class Keeper:
    """Writes the lines that keep the factors of a fitted metric, and roots of them.

    power  of a factor, in the roots "root_i" that a direction is multiplied by; None for none
    """

    fitted: Fitted
    power: float | None

    @property
    def metric(self) -> Kronecker:
        """What is declared."""
        return self.fitted.metric

    @property
    def coupled(self) -> bool:
        """Whether the sample of a factor is whitened along the other dims."""
        return self.metric.fit.coupled and len(self.fitted.estimated) > 1

    def roots(self, i: int) -> dict[str, float]:
        """Names of the roots of factor i, with their powers."""
        wanted = {} if self.power is None else {f"root_{i}": self.power}
        return wanted | ({self.whitener(i): 0.5} if self.coupled else {})

    def whitener(self, i: int) -> str:
        """Name of the root that whitens the samples of other factors."""
        return f"root_{i}" if self.power == 0.5 else f"whitener_{i}"

    def slots(self) -> Slots:
        """First values of all state."""
        found: list[tuple[str, Slot]] = [("seen", Slot(self.fitted.counted))]
        first = self.metric.memory.first
        for i in self.fitted.estimated:
            powers = {f"factor_{i}": -1.0, **self.roots(i)}
            found += [(name, self._slot(i, first, power)) for name, power in powers.items()]
            if self.fitted.dense(i):
                found.append((f"rejected_{i}", Slot(self.fitted.counted)))
            subspace = self.subspace(i)
            found += subspace.slots() if subspace else ()
        return tuple(found)

    def subspace(self, i: int) -> Subspace | None:
        """What keeps the basis of factor i, if it has spikes."""
        mode = self.fitted.modes[i]
        return Subspace(self.fitted, i, mode.rank) if isinstance(mode, SpikeAndFlat) else None

    def _slot(self, i: int, first: float, power: float) -> Slot:
        value = first**-power if first else 0.0 if power < 0 else 1.0
        return self.fitted.identity(i, value)

    def observe(self) -> list[Line]:
        """Lines from "sample" to the factors."""
        estimated = self.fitted.estimated
        lines = [line("seen", samples.tally, "seen", "sample")]
        if self.coupled and not self.metric.memory.first:
            lines += [each for i in estimated for each in self._first_scale(i)]
        lines += [each for i in estimated for each in self._whitened_along_others(i)]
        lines += [each for i in estimated for each in self._average(i)]
        return lines + (self._balance() if self.coupled and self.metric.balance else [])

    def _first_scale(self, i: int) -> list[Line]:
        # Each of the k factors takes an equal part of the gradient's mean square.
        share = 2 / len(self.fitted.estimated)
        powers = {f"factor_{i}": -1.0, **self.roots(i)}
        kind, op = self.fitted.kind(i), second_moment.first_scale
        return [
            line(name, op, name, "sample", "seen", power=-share * power, kind=kind)
            for name, power in powers.items()
        ]

    def _whitened_along_others(self, i: int) -> list[Line]:
        others = [j for j in self.fitted.estimated if j != i] if self.coupled else []
        reads = ["sample", *(f"half_{i}" for _ in others)]
        return [
            self.inverse(j, self.whitener(j)).down(read, f"half_{i}")
            for j, read in zip(others, reads, strict=False)
        ]

    def inverse(self, i: int, root: str) -> Applied:
        """The map along dim i whose inverse is this root."""
        fitted, mode = self.fitted, self.fitted.modes[i]
        if isinstance(mode, SpikeAndFlat):
            build = InverseSpiked(fitted.dim(i), fitted.ndim, mode.rank)
            return Applied(build, (root, f"basis_{i}"), fitted.shape)
        return Applied(
            InverseAlong(fitted.dim(i), fitted.ndim, fitted.kind(i)), (root,), fitted.shape
        )

    def averaging(self, i: int) -> dict[str, Any]:
        """The options by which factor i averages a sample."""
        fitted, memory = self.fitted, self.metric.memory
        return {
            "dim": fitted.dim(i),
            "ndim": fitted.ndim,
            "share": self.metric.fit.share(fitted.block[i], prod(fitted.block)),
            "beta": memory.beta,
            "unbiased": memory.unbiased,
        }

    def _average(self, i: int) -> list[Line]:
        fitted, subspace, options = self.fitted, self.subspace(i), self.averaging(i)
        read = f"half_{i}" if self.coupled else "sample"
        if subspace:
            return subspace.average(read, **options)
        reads, op = (f"factor_{i}", read, "seen"), second_moment.average_gram
        return [
            with_cost_of(line(reads[0], op, *reads, **options, kind=fitted.kind(i)), fitted.shape)
        ]

    def _balance(self) -> list[Line]:
        fitted, lines = self.fitted, []
        for i in fitted.estimated:
            order = [i, *(j for j in fitted.estimated if j != i)]
            kinds = tuple(fitted.kind(j) for j in order)
            names = (f"factor_{j}" for j in order)
            lines.append(line(f"gauge_{i}", gauge.gauge, *names, kinds=kinds))
        for i in fitted.estimated:
            powers = {f"factor_{i}": -1.0, **self.roots(i)}
            powers |= {f"image_{i}": -1.0} if self.subspace(i) else {}
            for name, power in powers.items():
                each = line(name, gauge.regauge, name, f"gauge_{i}", power=power)
                lines.append(with_cost_of(each, fitted.factor_shape(i)))
        return lines

    def refresh(self) -> list[Line]:
        """Lines from the factors to their roots."""
        lines = []
        for i in self.fitted.estimated:
            if self.fitted.dense(i):
                lines.append(self.rejected(i))
            lines += [self.root(i, name, power) for name, power in self.roots(i).items()]
        return lines

    def rejected(self, i: int) -> Line:
        """How often a dense factor was not fit to be decomposed."""
        names = (f"rejected_{i}", f"factor_{i}")
        return self.now_and_then(line(names[0], samples.rejected_moments, *names), i)

    def root(self, i: int, name: str, power: float) -> Line:
        """One of the roots of factor i."""
        subspace = self.subspace(i)
        op = spiked.inverse_root if subspace else ROOTS[self.fitted.kind(i).ndim]
        trace = self.metric.fit.trace_power(len(self.fitted.estimated))
        options: dict[str, Any] = {"power": power, "damping": self.metric.damping}
        options |= {"trace_power": trace} if trace else {}
        options |= {"kind": self.fitted.kind(i)} if subspace else {}
        return self.now_and_then(line(name, op, f"factor_{i}", name, **options), i)

    def now_and_then(self, each: Line, i: int) -> Line:
        """The line, which works on factor i, as often as factors of its kind are renewed."""
        every = self.metric.every if self.fitted.dense(i) else 1
        return replace(with_cost_of(each, self.fitted.factor_shape(i)), every=every)
