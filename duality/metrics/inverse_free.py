"""How metrics of power one are kept without inverses: by steps on K_i, S_i = (K_i K_i^T)^-1."""

from __future__ import annotations

from dataclasses import replace

from modula.duality.metrics.block_layout import WHOLE, Fitted, fit
from modula.duality.metrics.coordinates import Coordinates, coordinates, describe
from modula.duality.metrics.inverse_factors import Factors
from modula.duality.metrics.kronecker import MODES
from modula.duality.metrics.layer_layout import Matrix
from modula.duality.program.line import Line, line
from modula.duality.program.slot import Slot
from modula.kernels.moments import factors, gauge, inverse_free, samples
from modula.kernels.op import Shape
from modula.norms.metrics.base import Memory
from modula.norms.metrics.inverse_free import SINGD, InverseFree
from modula.norms.metrics.kronecker import DiagonalMode, Kronecker, Triangular

OF_DIM = ("output_moment", "input_moment")  # the statistic of each dim of a matrix


@describe.register
def _(metric: InverseFree, shape: Shape) -> str:
    return f"inverse-free: {fit(metric.product, shape)}, power {metric.power:g}"


@coordinates.register
def _(metric: InverseFree, shape: Shape, whole: bool) -> Coordinates:
    kept = Factors(fit(metric.product, shape).only(*MODES, Triangular), whole)
    reads = ("white", "fresh", "seen", *kept.named("root", kept.fitted.estimated))
    size = {"beta": metric.size_beta, "share": metric.batch_size, "damping": metric.damping}
    kinds = kept.kinds(kept.fitted.estimated)
    lines = [
        *kept.counting_usable(),
        *kept.white("root"),
        kept.on_weight("gain", factors.size_gain, *reads, **size, kinds=kinds),
        kept.on_weight("white", gauge.regauge, "white", "gain", power=-0.5),
        *kept.resized(root=-0.5 / len(kept.fitted.estimated)),
    ]
    for i in kept.fitted.estimated:
        options = kept.along(i)
        options["share"] *= metric.batch_size
        moment = inverse_free.seen_moment
        kind = kept.fitted.kind(i)
        lines.append(kept.on_weight(f"moment_{i}", moment, "white", **options, kind=kind))
    lines += _steps(metric, kept, coupled=True, limit=1.0)
    return kept.coordinates(lines, _slots(kept))


def _steps(metric: InverseFree | SINGD, kept: Factors, coupled: bool, limit: float) -> list[Line]:
    """Lines that move each K_i by what moment_i says.

    coupled  whether a factor sees the sizes of the others; then only their product means anything
    """
    lines = kept.gauges() if coupled else []
    for i in kept.fitted.estimated:
        order = kept.first(i) if coupled else (i,)
        reads, kinds = (f"moment_{i}", *kept.named("root", order)), kept.kinds(order)
        options = {"damping": metric.damping, "kinds": kinds}
        lines.append(kept.on(i, f"change_{i}", inverse_free.log_gradient, *reads, **options))
    for i in kept.fitted.estimated:
        speed, root = f"speed_{i}", f"root_{i}"
        average = inverse_free.group_momentum
        lines.append(
            kept.on(i, speed, average, speed, f"change_{i}", "fresh", beta=metric.momentum)
        )
        reads = (root, speed, "fresh", *((f"gauge_{i}",) if coupled else ()))
        options = {"rate": metric.rate, "limit": limit, "kind": kept.fitted.kind(i)}
        lines.append(kept.on(i, root, inverse_free.group_step, *reads, **options))
    return lines + (kept.squares() if kept.whole else [])


def _slots(kept: Factors) -> list[tuple[str, Slot]]:
    speeds = [(f"speed_{i}", Slot(kept.fitted.factor_shape(i))) for i in kept.fitted.estimated]
    return [*kept.identities("root"), *speeds]


def layers(metric: SINGD, shape: Shape) -> Fitted:
    """The factors of a layer's outputs and inputs, uncut; too wide ones are diagonal.

    Raises ValueError for a weight that has not got these two sides.
    """
    matrix = Matrix(tuple(shape), metric.inputs_first)
    sides = metric.modes if isinstance(metric.modes, tuple) else (metric.modes,) * 2
    whole = Kronecker(sides, memory=Memory(1.0), square=False, max_dim=max(matrix.viewed))
    fitted = fit(whole, matrix.viewed)
    kinds = tuple(
        DiagonalMode() if isinstance(mode, WHOLE) and size > metric.max_dim else mode
        for mode, size in zip(fitted.modes, fitted.block, strict=True)
    )
    return replace(fitted, view=matrix.view, modes=kinds).only(*MODES, Triangular)


@describe.register
def _(metric: SINGD, shape: Shape) -> str:
    return f"layer moments: {layers(metric, shape)}, power {metric.power:g}"


@coordinates.register
def _(metric: SINGD, shape: Shape, whole: bool) -> Coordinates:
    kept = Factors(layers(metric, shape), whole)
    every = kept.fitted.estimated
    seen = "local" if metric.cross else "moment"
    lines = [*_usable_moments(kept), *kept.counting(f"usable_{every[0]}")]
    lines += [_seen(kept, i, f"{seen}_{i}") for i in every]
    groups = (every,) if metric.cross else tuple((i,) for i in every)
    for group in groups:
        lines += _sized(metric, kept, group, seen)
    if metric.cross:
        for i in every:
            order = kept.first(i)
            names, kinds = kept.named("local", order), kept.kinds(order)
            lines.append(kept.on(i, f"moment_{i}", inverse_free.crossed, *names, kinds=kinds))
    # A step shorter than one stays invertible.
    lines += _steps(metric, kept, coupled=metric.cross, limit=1 / metric.rate)
    return kept.coordinates(lines, _slots(kept))


def _usable_moments(kept: Factors) -> list[Line]:
    """usable_i: the moment of dim i, or zero where either is none; rejected: how often one was."""
    every = kept.fitted.estimated
    names = {i: OF_DIM[i] for i in every}
    lines = [line("rejected", samples.rejected_moments, "rejected", *names.values())]
    for i in every:
        others = (names[j] for j in every if j != i)
        reads = (names[i], "seen", *others)
        lines.append(kept.on(i, f"usable_{i}", samples.usable_moment, *reads))
    return lines


def _seen(kept: Factors, i: int, result: str) -> Line:
    """The moment of dim i, seen through its factor."""
    reads = (f"usable_{i}", f"root_{i}")
    return kept.on(i, result, inverse_free.congruence, *reads, kind=kept.fitted.kind(i))


def _sized(metric: SINGD, kept: Factors, group: tuple[int, ...], seen: str) -> list[Line]:
    """Lines that give the product of these factors the size of their moments."""
    reads = ("fresh", "seen", *kept.named(seen, group), *kept.named("root", group))
    options = {"beta": metric.size_beta, "damping": metric.damping, "kinds": kept.kinds(group)}
    lines = [kept.on(group[0], "gain", inverse_free.moments_gain, *reads, **options)]
    share = 1 / len(group)
    for i in group:
        for name, power in ((f"root_{i}", -share / 2), (f"{seen}_{i}", -share)):
            lines.append(kept.on(i, name, gauge.regauge, name, "gain", power=power))
    return lines
