"""How Kronecker metrics are kept: averaged moments along each dim, and their cached roots."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from modula.duality.metrics.block_layout import BlockLayout, Factor, block_layout
from modula.duality.metrics.coordinates import Applied, Coordinates, coordinates, describe
from modula.duality.metrics.maps import InverseAlong
from modula.duality.metrics.spiked import InverseSpiked, SpikedLines
from modula.duality.program.line import Line, Live, line
from modula.duality.program.slot import Slot, Slots
from modula.kernels.moments import gauge, root, samples, second_moment, spiked
from modula.kernels.op import Op, Shape
from modula.norms.metrics.kronecker import (
    BlockDiagonal,
    Dense,
    DiagonalMode,
    Flat,
    Kronecker,
    SpikeAndFlat,
)

MODES = (Dense, DiagonalMode, BlockDiagonal, Flat)  # that any factor may have
# Of a diagonal, a matrix and blocks of a matrix, by how many dims each is kept as.
ROOTS: dict[int, Op] = {
    1: root.inverse_root_diagonal,
    2: root.inverse_root,
    3: root.inverse_root_blocks,
}


@describe.register
def _(metric: Kronecker, shape: Shape) -> str:
    layout = block_layout(metric, tuple(shape))
    return f"{type(metric.fit).__name__}: {layout}, power {metric.power:g}"


@coordinates.register
def _(metric: Kronecker, shape: Shape, whole: bool) -> Coordinates:
    layout = block_layout(metric, tuple(shape)).only(*MODES, SpikeAndFlat)
    power = metric.power * metric.fit.factor_power(len(layout.factors))
    moments = MomentLines(metric, layout, power if whole else power / 2)
    lines = (*moments.observe(), *moments.refresh())
    return Coordinates(
        before=lines if metric.instant else (),
        core=tuple(moments.inverse(each, f"root_{each.name}") for each in layout.factors),
        after=() if metric.instant else lines,
        slots=moments.slots(),
        view=layout.view,
    )


@dataclass(frozen=True)
class MomentLines:
    """Writes the lines that average the factors M_i of a Kronecker metric, and take their roots.

    power  of a factor, in the roots "root_i" that a direction is multiplied by; None for none
    beta   name of the averages' coefficient in param_groups
    """

    metric: Kronecker
    layout: BlockLayout
    power: float | None
    beta: str = "beta"

    @property
    def coupled(self) -> bool:
        """Whether the sample of a factor is whitened along the other dims."""
        return self.metric.fit.coupled and len(self.layout.factors) > 1

    def roots(self, factor: Factor) -> dict[str, float]:
        """Names of the roots of a factor, with their powers."""
        wanted = {} if self.power is None else {f"root_{factor.name}": self.power}
        return wanted | ({self.whitener(factor): 0.5} if self.coupled else {})

    def whitener(self, factor: Factor) -> str:
        """Name of the root that whitens the samples of other factors."""
        return f"root_{factor.name}" if self.power == 0.5 else f"whitener_{factor.name}"

    def powers(self, factor: Factor) -> dict[str, float]:
        """Names of what is kept of a factor, with the powers of M_i^-1 that they are."""
        return {f"factor_{factor.name}": -1.0, **self.roots(factor)}

    def slots(self) -> Slots:
        """First values of all state."""
        first, layout = self.metric.memory.first, self.layout
        found: list[tuple[str, Slot]] = [("seen", Slot(layout.blocks))]
        for each in layout.factors:
            for name, power in self.powers(each).items():
                # A root of nothing is one, so that what comes before any sample passes unchanged.
                unseen = 0.0 if power < 0 else 1.0
                found.append((name, each.identity(first**-power if first else unseen)))
            if each.is_matrix:
                found.append((f"rejected_{each.name}", Slot(layout.blocks)))
            if isinstance(each.mode, SpikeAndFlat):
                found += self.spiked(each).slots()
        return tuple(found)

    def spiked(self, factor: Factor) -> SpikedLines:
        """What keeps the basis of a factor that has spikes."""
        return SpikedLines(factor, self.layout.shape, self.metric.every)

    def observe(self) -> list[Line]:
        """Lines from "sample" to the factors."""
        lines = [line("seen", samples.tally, "seen", "sample")]
        if self.coupled and not self.metric.memory.first:
            lines += self._first_scales()
        if self.coupled:
            for each in self.layout.factors:
                lines += self._whitened_along_others(each)
        for each in self.layout.factors:
            lines += self._average(each)
        return lines + (self._balance() if self.coupled and self.metric.balance else [])

    def _first_scales(self) -> list[Line]:
        """Lines that begin with multiples of I of the size of the first gradient.

        Whitening by the identity would leave the first factors with the units of all of G^2.
        """
        # Each of the k factors takes an equal part of the gradient's mean square.
        share, op = 2 / len(self.layout.factors), second_moment.first_scale
        kept = [(each, self.powers(each)) for each in self.layout.factors]
        return [
            line(name, op, name, "sample", "seen", power=-share * power, kind=each.kind)
            for each, powers in kept
            for name, power in powers.items()
        ]

    def _whitened_along_others(self, factor: Factor) -> list[Line]:
        """half_i: the sample, times the roots of all other factors."""
        lines, read, result = [], "sample", f"half_{factor.name}"
        for other in self.layout.factors:
            if other is not factor:
                lines.append(self.inverse(other, self.whitener(other)).down(read, result))
                read = result
        return lines

    def inverse(self, factor: Factor, root: str) -> Applied:
        """The map along a factor's dim whose inverse is this root."""
        ndim, shape = self.layout.ndim, self.layout.shape
        if isinstance(factor.mode, SpikeAndFlat):
            build = InverseSpiked(factor.dim, ndim, factor.mode.rank)
            return Applied(build, (root, f"basis_{factor.name}"), shape)
        return Applied(InverseAlong(factor.dim, ndim, factor.kind), (root,), shape)

    def averaging(self, factor: Factor) -> dict[str, Any]:
        """The options by which a factor averages a sample."""
        memory = self.metric.memory
        return {
            "dim": factor.dim,
            "ndim": self.layout.ndim,
            "share": self.metric.fit.share(factor.size, prod(self.layout.block)),
            "beta": Live(self.beta, memory.beta),
            "unbiased": memory.unbiased,
        }

    def _average(self, factor: Factor) -> list[Line]:
        options = self.averaging(factor)
        read = f"half_{factor.name}" if self.coupled else "sample"
        if isinstance(factor.mode, SpikeAndFlat):
            return self.spiked(factor).average(read, **options)
        reads, op = (f"factor_{factor.name}", read, "seen"), second_moment.average_gram
        options["kind"] = factor.kind
        return [line(reads[0], op, *reads, on=self.layout.shape, **options)]

    def _balance(self) -> list[Line]:
        """Lines that make the factors equal in size: only their product means anything."""
        factors = self.layout.factors
        orders = [(i, (i, *(j for j in factors if j is not i))) for i in factors]
        lines = [
            line(
                f"gauge_{i.name}",
                gauge.gauge,
                *[f"factor_{j.name}" for j in order],
                kinds=tuple([j.kind for j in order]),
            )
            for i, order in orders
        ]
        kept = [(each, self.powers(each)) for each in factors]
        for each, powers in kept:
            if isinstance(each.mode, SpikeAndFlat):
                powers[f"image_{each.name}"] = -1.0
        return lines + [
            line(
                name,
                gauge.regauge,
                name,
                f"gauge_{each.name}",
                on=each.shape,
                power=power,
            )
            for each, powers in kept
            for name, power in powers.items()
        ]

    def refresh(self) -> list[Line]:
        """Lines from the factors to their roots."""
        lines = []
        for each in self.layout.factors:
            if each.is_matrix:
                lines.append(self.rejected(each))
            lines += [self.root(each, name, power) for name, power in self.roots(each).items()]
        return lines

    def every(self, factor: Factor) -> int:
        """Steps between two renewals of a factor's roots: those of a diagonal cost nothing."""
        return self.metric.every if factor.is_matrix else 1

    def rejected(self, factor: Factor) -> Line:
        """How often a matrix was not fit to be decomposed."""
        names = (f"rejected_{factor.name}", f"factor_{factor.name}")
        op, every = samples.rejected_moments, self.every(factor)
        return line(names[0], op, *names, on=factor.shape, every=every)

    def root(self, factor: Factor, name: str, power: float) -> Line:
        """One of the roots of a factor."""
        options: dict[str, Any] = {"power": power, "damping": self.metric.damping}
        trace = self.metric.fit.trace_power(len(self.layout.factors))
        if trace:
            options["trace_power"] = trace
        op, every = ROOTS[factor.kind.ndim], self.every(factor)
        if isinstance(factor.mode, SpikeAndFlat):
            op, options["kind"] = spiked.inverse_root, factor.kind
        reads = (f"factor_{factor.name}", name)
        return line(name, op, *reads, on=factor.shape, every=every, **options)
