"""What metrics share that keep factors K_i of their inverse: S^-p = (K_1 K_1^T) x ... ."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from modula.duality.metrics.block_layout import Fitted
from modula.duality.metrics.coordinates import Applied, Coordinates, with_cost_of
from modula.duality.metrics.kronecker import InverseAlong
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
class Factors:
    """Names, shapes and lines for the factors `root_i` of a fitted metric.

    whole  whether the direction is multiplied by K K^T, or the coordinates are C = K^-1
    """

    fitted: Fitted
    whole: bool

    def __post_init__(self) -> None:
        if not self.fitted.estimated:
            raise ValueError(
                "all modes are Flat(), and nothing is left to estimate: give one dim Dense() or "
                "DiagonalMode(), or declare no metric"
            )

    def first(self, i: int) -> tuple[int, ...]:
        """All dims, i the first of them."""
        return (i, *(j for j in self.fitted.estimated if j != i))

    def named(self, name: str, order: tuple[int, ...]) -> tuple[str, ...]:
        """name_i for each of these dims."""
        return tuple(f"{name}_{i}" for i in order)

    def kinds(self, order: tuple[int, ...]) -> tuple[Structure, ...]:
        """For each of these dims what is kept of its factor."""
        return tuple(self.fitted.kind(i) for i in order)

    def along(self, i: int) -> dict[str, float | int]:
        """The options of a moment along dim i."""
        block = self.fitted.block
        return {
            "dim": self.fitted.dim(i),
            "ndim": self.fitted.ndim,
            "share": block[i] / prod(block),
        }

    def on(self, i: int, result: str, op: Op, *reads: str, **options: object) -> Line:
        """A line on something of the shape of factor i."""
        return with_cost_of(line(result, op, *reads, **options), self.fitted.factor_shape(i))

    def on_weight(self, result: str, op: Op, *reads: str, **options: object) -> Line:
        """A line on something of the shape of a block."""
        return with_cost_of(line(result, op, *reads, **options), self.fitted.shape)

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
            self.on(i, f"{name}_{i}", gauge.regauge, f"{name}_{i}", "gain", power=power)
            for name, power in powers.items()
            for i in self.fitted.estimated
        ]

    def white(self, name: str) -> list[Line]:
        """white: the sample, seen through name_i^T along each dim."""
        lines, read = [], "usable"
        for i in self.fitted.estimated:
            lines.append(self.applied(name, i).down(read, "white"))
            read = "white"
        return lines

    def gauges(self) -> list[Line]:
        """gauge_i: by how much factor i is larger than the others."""
        lines = []
        for i in self.fitted.estimated:
            order = self.first(i)
            names, kinds = self.named("root", order), self.kinds(order)
            lines.append(self.on(i, f"gauge_{i}", gauge.factor_gauge, *names, kinds=kinds))
        return lines

    def squares(self) -> list[Line]:
        """inverse_i = K_i K_i^T"""
        return [
            self.on(i, f"inverse_{i}", factors.square, f"root_{i}", kind=self.fitted.kind(i))
            for i in self.fitted.estimated
        ]

    def applied(self, name: str, i: int) -> Applied:
        """The map along dim i whose inverse is name_i."""
        build = InverseAlong(self.fitted.dim(i), self.fitted.ndim, self.fitted.kind(i))
        return Applied(build, (f"{name}_{i}",), self.fitted.shape)

    def identities(self, name: str) -> list[tuple[str, Slot]]:
        """Slots of name_i: identities."""
        return [(f"{name}_{i}", self.fitted.identity(i)) for i in self.fitted.estimated]

    def numbers(self, name: str) -> list[tuple[str, Slot]]:
        """Slots of name_i: a zero for each block."""
        return [(f"{name}_{i}", Slot(self.fitted.counted)) for i in self.fitted.estimated]

    def coordinates(self, lines: list[Line], slots: list[tuple[str, Slot]]) -> Coordinates:
        """The coordinates that the factors give, once these lines have run."""
        name = "inverse" if self.whole else "root"
        return Coordinates(
            before=tuple(lines),
            core=tuple(self.applied(name, i) for i in self.fitted.estimated),
            slots=(*((name, Slot(self.fitted.counted)) for name in ("seen", "rejected")), *slots),
            view=self.fitted.view,
        )
