"""Lines for metrics that keep factors K_i of their inverse: S^-p = (K_1 K_1^T) x ... ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from modula.duality.metrics.block_layout import BlockLayout, Factor
from modula.duality.metrics.coordinates import Applied, Coordinates
from modula.duality.metrics.maps import InverseAlong
from modula.duality.program.line import Line, line
from modula.duality.program.slot import Slot
from modula.kernels.elementwise import averages
from modula.kernels.moments import factors, gauge, samples
from modula.kernels.moments.structure import Structure
from modula.kernels.op import Op


def usable_sample() -> list[Line]:
    """usable: the sample, or zero where it overflows; rejected: how often it did."""
    return [
        line("rejected", samples.rejected, "rejected", "sample"),
        line("usable", samples.usable, "sample", "seen"),
    ]


@dataclass(frozen=True)
class InverseFactors:
    """Names, shapes and lines for the factors `root_i` of a layout.

    whole  whether the direction is multiplied by K K^T, or the coordinates are C = K^-1
    """

    layout: BlockLayout
    whole: bool

    def __post_init__(self) -> None:
        if not self.layout.factors:
            raise ValueError(
                "all modes are Flat(), and nothing is left to estimate: give one dim Dense() or "
                "DiagonalMode(), or declare no metric"
            )

    @property
    def factors(self) -> tuple[Factor, ...]:
        """One for each dim that is not flat."""
        return self.layout.factors

    def first(self, factor: Factor) -> tuple[Factor, ...]:
        """All factors, this one the first of them."""
        return (factor, *(each for each in self.factors if each is not factor))

    def along(self, factor: Factor) -> dict[str, float | int]:
        """The options of a moment along a factor's dim."""
        return {
            "dim": factor.dim,
            "ndim": self.layout.ndim,
            "share": factor.size / prod(self.layout.block),
        }

    def on_weight(self, result: str, op: Op, *reads: str, **options: Any) -> Line:
        """A line on something of the shape of the weight in blocks."""
        return line(result, op, *reads, on=self.layout.shape, **options)

    def counting(self, read: str) -> list[Line]:
        """fresh: whether what is read is a sample; seen: how many there were."""
        return [
            line("fresh", samples.fresh, read, "seen"),
            line("seen", averages.accumulate, "seen", "fresh", beta=1.0),
        ]

    def counting_usable(self) -> list[Line]:
        """usable: the sample, or zero where it overflows; and its count."""
        return [*usable_sample(), *self.counting("usable")]

    def resized(self, **powers: float) -> list[Line]:
        """name_i times gain^power along each dim."""
        return [
            regauged(each, f"{name}_{each.name}", "gain", power)
            for name, power in powers.items()
            for each in self.factors
        ]

    def white(self, name: str) -> list[Line]:
        """white: the sample, seen through name_i^T along each dim."""
        lines, read = [], "usable"
        for each in self.factors:
            lines.append(self.applied(name, each).down(read, "white"))
            read = "white"
        return lines

    def gauges(self) -> list[Line]:
        """gauge_i: by how much factor i is larger than the others."""
        return [
            line(
                f"gauge_{each.name}",
                gauge.factor_gauge,
                *named("root", order),
                on=each.shape,
                kinds=kinds(order),
            )
            for each, order in ((each, self.first(each)) for each in self.factors)
        ]

    def squares(self) -> list[Line]:
        """inverse_i = K_i K_i^T"""
        return [
            line(
                f"inverse_{each.name}",
                factors.square,
                f"root_{each.name}",
                on=each.shape,
                kind=each.kind,
            )
            for each in self.factors
        ]

    def applied(self, name: str, factor: Factor) -> Applied:
        """The map along a factor's dim whose inverse is name_i."""
        build = InverseAlong(factor.dim, self.layout.ndim, factor.kind)
        return Applied(build, (f"{name}_{factor.name}",), self.layout.shape)

    def identities(self, name: str) -> list[tuple[str, Slot]]:
        """Slots of name_i: identities."""
        return [(f"{name}_{each.name}", each.identity()) for each in self.factors]

    def numbers(self, name: str) -> list[tuple[str, Slot]]:
        """Slots of name_i: a zero for each block."""
        return [(f"{name}_{each.name}", Slot(self.layout.blocks)) for each in self.factors]

    def coordinates(self, lines: list[Line], slots: list[tuple[str, Slot]]) -> Coordinates:
        """The coordinates that the factors give, once these lines have run."""
        name = "inverse" if self.whole else "root"
        counts = ((count, Slot(self.layout.blocks)) for count in ("seen", "rejected"))
        return Coordinates(
            before=tuple(lines),
            core=tuple(self.applied(name, each) for each in self.factors),
            slots=(*counts, *slots),
            view=self.layout.view,
        )


def named(name: str, order: Sequence[Factor]) -> tuple[str, ...]:
    """name_i for each of these factors."""
    return tuple(f"{name}_{each.name}" for each in order)


def kinds(order: Sequence[Factor]) -> tuple[Structure, ...]:
    """What is kept of each of these factors."""
    return tuple(each.kind for each in order)


def regauged(factor: Factor, name: str, size: str, power: float) -> Line:
    """name <- size^power name, for something of the shape of a factor."""
    return line(name, gauge.regauge, name, size, on=factor.shape, power=power)
