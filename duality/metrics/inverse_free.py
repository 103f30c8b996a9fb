"""How metrics of power one are kept without inverses: by steps on K_i, S_i = (K_i K_i^T)^-1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modula.duality.metrics.block_layout import (
    WHOLE,
    BlockLayout,
    Factor,
    block_layout,
    layout_of,
)
from modula.duality.metrics.coordinates import Coordinates, coordinates, describe
from modula.duality.metrics.inverse_factors import InverseFactors, kinds, named, regauged
from modula.duality.metrics.kronecker import MODES
from modula.duality.metrics.layer_layout import matrix_shape, matrix_view
from modula.duality.program.line import Line, line
from modula.duality.program.slot import Slot
from modula.kernels.moments import factors, gauge, inverse_free, samples
from modula.kernels.op import Shape
from modula.norms.metrics.base import Memory
from modula.norms.metrics.inverse_free import SINGD, InverseFree
from modula.norms.metrics.kronecker import DiagonalMode, Kronecker, Triangular

# The statistic of each dim of a layer's matrix, counted from the last.
STATISTIC_OF = {-2: "output_moment", -1: "input_moment"}


@describe.register
def _(metric: InverseFree, shape: Shape) -> str:
    layout = block_layout(metric.product, tuple(shape))
    return f"inverse-free: {layout}, power {metric.power:g}"


@coordinates.register
def _(metric: InverseFree, shape: Shape, whole: bool) -> Coordinates:
    layout = block_layout(metric.product, tuple(shape)).only(*MODES, Triangular)
    kept = InverseFactors(layout, whole)
    lines = [
        *kept.counting_usable(),
        *kept.white("root"),
        kept.on_weight(
            "gain",
            factors.size_gain,
            *("white", "fresh", "seen", *named("root", kept.factors)),
            beta=metric.size_beta,
            share=metric.batch_size,
            damping=metric.damping,
            kinds=kinds(kept.factors),
        ),
        # The size first, in one go: the steps that follow are bounded, and would take long.
        kept.on_weight("white", gauge.regauge, "white", "gain", power=-0.5),
        *kept.resized(root=-0.5 / len(kept.factors)),
    ]
    for each in kept.factors:
        options = kept.along(each)
        options["share"] *= metric.batch_size
        moment = inverse_free.seen_moment
        lines.append(
            kept.on_weight(f"moment_{each.name}", moment, "white", **options, kind=each.kind)
        )
    lines += _steps(metric, kept, coupled=True, limit=1.0)
    return kept.coordinates(lines, _slots(kept))


def _steps(
    metric: InverseFree | SINGD, kept: InverseFactors, coupled: bool, limit: float
) -> list[Line]:
    """Lines that move each K_i by what moment_i says.

    coupled  whether a factor sees the sizes of the others; then only their product means anything
    """
    lines = kept.gauges() if coupled else []
    for each in kept.factors:
        order = kept.first(each) if coupled else (each,)
        reads = (f"moment_{each.name}", *named("root", order))
        options: dict[str, Any] = {"damping": metric.damping, "kinds": kinds(order)}
        change, op = f"change_{each.name}", inverse_free.log_gradient
        lines.append(line(change, op, *reads, on=each.shape, **options))
    for each in kept.factors:
        speed, root = f"speed_{each.name}", f"root_{each.name}"
        reads = (speed, f"change_{each.name}", "fresh")
        lines.append(
            line(speed, inverse_free.group_momentum, *reads, on=each.shape, beta=metric.momentum)
        )
        reads = (root, speed, "fresh", *((f"gauge_{each.name}",) if coupled else ()))
        options = {"rate": metric.rate, "limit": limit, "kind": each.kind}
        lines.append(line(root, inverse_free.group_step, *reads, on=each.shape, **options))
    return lines + (kept.squares() if kept.whole else [])


def _slots(kept: InverseFactors) -> list[tuple[str, Slot]]:
    speeds = [(f"speed_{each.name}", Slot(each.shape)) for each in kept.factors]
    return [*kept.identities("root"), *speeds]


def _layer_layout(metric: SINGD, shape: Shape) -> BlockLayout:
    """The factors of a layer's outputs and inputs, uncut; too wide ones are diagonal.

    Raises ValueError for a weight that has not got these two sides.
    """
    sizes = matrix_shape(shape, metric.inputs_first)
    modes = metric.modes if isinstance(metric.modes, tuple) else (metric.modes,) * 2
    whole = Kronecker(modes, memory=Memory(1.0), square=False, max_dim=max(sizes))
    modes = tuple(
        DiagonalMode() if isinstance(mode, WHOLE) and size > metric.max_dim else mode
        for mode, size in zip(block_layout(whole, sizes).modes, sizes, strict=True)
    )
    view = matrix_view(shape, metric.inputs_first)
    return layout_of(view, (), sizes, modes).only(*MODES, Triangular)


@describe.register
def _(metric: SINGD, shape: Shape) -> str:
    return f"layer moments: {_layer_layout(metric, shape)}, power {metric.power:g}"


@coordinates.register
def _(metric: SINGD, shape: Shape, whole: bool) -> Coordinates:
    kept = InverseFactors(_layer_layout(metric, shape), whole)
    every = kept.factors
    seen = "local" if metric.cross else "moment"
    lines = [*_usable_moments(kept), *kept.counting(f"usable_{every[0].name}")]
    lines += [_seen(each, f"{seen}_{each.name}") for each in every]
    for group in (every,) if metric.cross else tuple((each,) for each in every):
        lines += _sized(metric, group, seen)
    if metric.cross:
        for each in every:
            order, moment = kept.first(each), f"moment_{each.name}"
            names, op = named("local", order), inverse_free.crossed
            lines.append(line(moment, op, *names, on=each.shape, kinds=kinds(order)))
    # A step shorter than one stays invertible.
    lines += _steps(metric, kept, coupled=metric.cross, limit=1 / metric.rate)
    return kept.coordinates(lines, _slots(kept))


def _usable_moments(kept: InverseFactors) -> list[Line]:
    """usable_i: the moment of dim i, or zero where either is none; rejected: how often one was."""
    names = {each.name: STATISTIC_OF[each.dim] for each in kept.factors}
    lines = [line("rejected", samples.rejected_moments, "rejected", *names.values())]
    for each in kept.factors:
        others = (names[other.name] for other in kept.factors if other is not each)
        reads = (names[each.name], "seen", *others)
        lines.append(line(f"usable_{each.name}", samples.usable_moment, *reads, on=each.shape))
    return lines


def _seen(factor: Factor, result: str) -> Line:
    """The moment of a factor's dim, seen through the factor."""
    reads = (f"usable_{factor.name}", f"root_{factor.name}")
    return line(result, inverse_free.congruence, *reads, on=factor.shape, kind=factor.kind)


def _sized(metric: SINGD, group: Sequence[Factor], seen: str) -> list[Line]:
    """Lines that give the product of these factors the size of their moments."""
    gain = line(
        "gain",
        inverse_free.moments_gain,
        *("fresh", "seen", *named(seen, group), *named("root", group)),
        on=group[0].shape,
        beta=metric.size_beta,
        damping=metric.damping,
        kinds=kinds(group),
    )
    share = 1 / len(group)
    return [
        gain,
        *(
            regauged(each, f"{name}_{each.name}", "gain", power)
            for each in group
            for name, power in (("root", -share / 2), (seen, -share))
        ),
    ]
