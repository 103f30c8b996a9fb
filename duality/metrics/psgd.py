"""How PSGD's metric is kept: factors that follow every gradient by a multiplication."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

from modula.duality.metrics.block_layout import fit
from modula.duality.metrics.coordinates import Coordinates, coordinates, describe
from modula.duality.metrics.inverse_factors import Factors
from modula.duality.metrics.kronecker import MODES
from modula.duality.program.line import Line
from modula.kernels.moments import factors, gauge, psgd
from modula.kernels.op import Shape
from modula.norms.metrics.psgd import EQ, PRO, PSGD, Solver


@describe.register
def _(metric: PSGD, shape: Shape) -> str:
    return f"{type(metric.solver).__name__}: {fit(metric.product, shape)}, power {metric.power:g}"


@coordinates.register
def _(metric: PSGD, shape: Shape, whole: bool) -> Coordinates:
    kept = Factors(fit(metric.product, shape).only(*MODES), whole)
    lines = [*kept.counting_usable(), *_follow(metric.solver, metric, kept)]
    slots = kept.identities("root") + kept.identities("inverse") + kept.numbers("bound")
    return kept.coordinates([_at_times(each, metric.every) for each in lines], slots)


def _at_times(each: Line, every: int) -> Line:
    """The line, in every so many-th of the steps that it runs in."""
    return replace(each, every=every * each.every)


@singledispatch
def _follow(solver: Solver, metric: PSGD, kept: Factors) -> list[Line]:
    """Lines that advance the factors by a sample."""
    raise TypeError(f"{solver} is declared, but nothing follows it")


@_follow.register
def _(solver: PRO, metric: PSGD, kept: Factors) -> list[Line]:
    share = 0.5 / len(kept.fitted.estimated)  # of each P_i in S^-1/2
    size = {"beta": metric.size_beta}
    lines = [
        *kept.white("inverse"),
        kept.on_weight("gain", factors.size_gain, "white", "fresh", "seen", **size),
        kept.on_weight("white", gauge.regauge, "white", "gain", power=-0.5),
        *kept.resized(root=-share / 2, inverse=-share),
    ]
    for i in kept.fitted.estimated:
        order = kept.first(i)
        lines.append(
            kept.on_weight(
                f"moment_{i}",
                psgd.whitened_moment,
                *("white", "usable", *kept.named("inverse", order)),
                **kept.along(i),
                damping=metric.damping,
                kinds=kept.kinds(order),
            )
        )
        lines.append(_bound(metric, kept, i, f"moment_{i}"))
    lines += kept.gauges()
    for i in kept.fitted.estimated:
        reads = (f"moment_{i}", f"bound_{i}", f"gauge_{i}", "fresh", "seen")
        options = {**_rate(metric), "kind": kept.fitted.kind(i)}
        lines.append(kept.on(i, f"root_{i}", psgd.whitening_step, f"root_{i}", *reads, **options))
        if kept.fitted.dense(i):
            turned = kept.on(i, f"root_{i}", psgd.rotated, f"root_{i}")
            lines.append(replace(turned, every=solver.rotate_every))
    return lines + kept.squares()


@_follow.register
def _(solver: EQ, metric: PSGD, kept: Factors) -> list[Line]:
    lines = kept.white("root")
    for i in kept.fitted.estimated:
        kind, root = kept.fitted.kind(i), f"root_{i}"
        lines.append(kept.on(i, f"inverse_{root}", psgd.inverse_factor, root, kind=kind))
    reads = ("white", "fresh", "seen", *kept.named("inverse_root", kept.fitted.estimated))
    size = {"beta": metric.size_beta, "kinds": kept.kinds(kept.fitted.estimated)}
    share = 0.25 / len(kept.fitted.estimated)  # of each K_i in S^-1/2
    lines += [
        kept.on_weight("gain", psgd.size_balance, *reads, **size),
        kept.on_weight("white", gauge.regauge, "white", "gain", power=-0.25),
        *kept.resized(root=-share, inverse_root=share),
    ]
    for i in kept.fitted.estimated:
        order = kept.first(i)
        kinds = kept.kinds(order)
        lines.append(
            kept.on_weight(
                f"moment_{i}",
                psgd.triangular_moment,
                *("white", "usable", *kept.named("root", order)),
                **kept.along(i),
                damping=metric.damping,
                kinds=kinds,
            )
        )
        names = kept.named("inverse_root", order)
        lines.append(kept.on(i, f"prior_{i}", psgd.prior, *names, kinds=kinds))
        lines.append(_bound(metric, kept, i, f"moment_{i}", f"prior_{i}"))
    lines += kept.gauges()
    for i in kept.fitted.estimated:
        reads = (f"moment_{i}", f"prior_{i}", f"bound_{i}", f"gauge_{i}", "fresh", "seen")
        options = {**_rate(metric), "kind": kept.fitted.kind(i)}
        lines.append(kept.on(i, f"root_{i}", psgd.triangular_step, f"root_{i}", *reads, **options))
    return lines + (kept.squares() if kept.whole else [])


def _bound(metric: PSGD, kept: Factors, i: int, *reads: str) -> Line:
    return kept.on(
        i,
        f"bound_{i}",
        psgd.running_bound,
        *(f"bound_{i}", "fresh", *reads),
        beta=metric.bound_beta,
        kind=kept.fitted.kind(i),
    )


def _rate(metric: PSGD) -> dict[str, float]:
    return {"rate": metric.rate, "last_rate": metric.last_rate, "horizon": metric.horizon}
