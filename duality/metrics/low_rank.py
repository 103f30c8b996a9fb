"""How PSGD's low-rank metric is kept: d, U and V follow every gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from torch import Tensor

from modula.duality.metrics.coordinates import Applied, Coordinates, coordinates, describe
from modula.duality.metrics.inverse_factors import usable_sample
from modula.duality.program.line import Line, line
from modula.duality.program.slot import Slot
from modula.kernels.elementwise import averages
from modula.kernels.moments import gauge, low_rank, samples, spiked
from modula.kernels.op import Cost, Shape
from modula.norms.maps.linear import Inverse, LinearMap, Transposed
from modula.norms.maps.structured import LowRankScaled
from modula.norms.metrics.low_rank import LowRank

Q = ("scale", "left", "right")
COUNTS = ("seen", "rejected")
START = 0.3  # the length of the columns of U and V at first


@dataclass(frozen=True)
class InverseOfQ:
    """C = Q^-T, or Q^-1 where it is transposed: C^-T = Q."""

    rank: int
    transposed: bool = False

    def __call__(self, *tensors: Tensor) -> LinearMap:
        scale, left, right = tensors
        of = LowRankScaled(scale, left, right)
        return Inverse(of if self.transposed else Transposed(of))

    def __str__(self) -> str:
        return "transposed low rank" if self.transposed else "low rank"

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        width = 2 * self.rank + 1
        return Cost(2.0 * prod(shape) * width, 1.0 * itemsize * prod(shape) * (width + 2))


@describe.register
def _(metric: LowRank, shape: Shape) -> str:
    rank, size = metric.rank, prod(shape)
    return f"LRA: diagonal {size} with rank {rank}, power {metric.power:g}"


@coordinates.register
def _(metric: LowRank, shape: Shape, whole: bool) -> Coordinates:
    inward, outward = (Applied(InverseOfQ(metric.rank, t), Q) for t in (False, True))
    thin = (prod(shape), metric.rank)
    lines = [*_sized(metric, inward, thin), *_pulled(metric, thin), *_stepped(metric, thin)]
    numbers = ((name, Slot(())) for name in (*COUNTS, "bound_scale", "bound_left", "bound_right"))
    return Coordinates(
        before=tuple(replace(each, every=metric.every * each.every) for each in lines),
        core=(inward, outward) if whole else (inward,),
        slots=(
            *numbers,
            ("scale", Slot(fill=1.0)),
            ("left", Slot(thin)),
            ("right", Slot(thin)),
        ),
    )


def _sized(metric: LowRank, inward: Applied, thin: tuple[int, ...]) -> list[Line]:
    """Lines that count the sample, see it as a = Q g, and give S its size."""
    damping = metric.damping
    resized = (("scale", -0.25), ("white", -0.25), ("pull_scale", -0.5), ("push_scale", 0.5))
    return [
        *usable_sample(),
        line("fresh", samples.fresh, "usable", "seen"),
        line("seen", averages.accumulate, "seen", "fresh", beta=1.0),
        *(line(n, spiked.begun, n, "usable", "seen", on=thin, size=START) for n in Q[1:]),
        inward.down("usable", "white"),
        line("pull_scale", low_rank.pull_scale, "white", "usable", *Q, on=thin, damping=damping),
        line("push_scale", low_rank.push_scale, *Q, on=thin),
        line(
            "gain",
            low_rank.size_gain,
            *("pull_scale", "push_scale", "fresh", "seen"),
            beta=metric.size_beta,
        ),
        *(line(name, gauge.regauge, name, "gain", power=p) for name, p in resized),
    ]


def _pulled(metric: LowRank, thin: tuple[int, ...]) -> list[Line]:
    """Lines for what moves d, U and V, and for how far it may."""
    pair, beta = ("pull_scale", "push_scale"), metric.bound_beta
    lines = [line("bound_scale", low_rank.bound_scale, "bound_scale", "fresh", *pair, beta=beta)]
    lines.append(line("change_scale", low_rank.change_scale, *pair, "scale"))
    changes = {"left": low_rank.change_left, "right": low_rank.change_right}
    for side, other in (("left", "right"), ("right", "left")):
        pull, push, bound = (f"{name}_{side}" for name in ("pull", "push", "bound"))
        reads, damping = ("white", "usable", *Q, other), metric.damping
        lines += [
            line(pull, low_rank.pull, *reads, on=thin, damping=damping),
            line(push, low_rank.push, *Q, other, on=thin),
            line(bound, low_rank.bound, bound, "fresh", pull, push, other, on=thin, beta=beta),
            line(f"change_{side}", changes[side], pull, push, "left", "right", on=thin),
        ]
    return lines


def _stepped(metric: LowRank, thin: tuple[int, ...]) -> list[Line]:
    """Lines that move d, U and V, and make U and V of one size."""
    lines = [
        line(
            name,
            low_rank.stepped,
            *(name, f"change_{name}", f"bound_{name}", "fresh", "seen"),
            on=None if name == "scale" else thin,
            rate=metric.rate,
            last_rate=metric.last_rate,
            horizon=metric.horizon,
        )
        for name in Q
    ]
    lines.append(line("gauge", low_rank.ratio, "left", "right", on=thin))
    for name, power in (("left", -0.5), ("right", 0.5)):
        lines.append(line(name, gauge.regauge, name, "gauge", on=thin, power=power))
    return lines
