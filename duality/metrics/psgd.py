"""How PSGD's metric is kept: factors that follow every gradient by a multiplication."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

from modula.duality.metrics.block_layout import Factor, block_layout
from modula.duality.metrics.coordinates import Coordinates, coordinates, describe
from modula.duality.metrics.inverse_factors import InverseFactors, kinds, named
from modula.duality.metrics.kronecker import MODES
from modula.duality.program.line import Line, line
from modula.kernels.moments import factors, gauge, psgd
from modula.kernels.op import Op, Shape
from modula.norms.metrics.psgd import EQ, PRO, PSGD, Solver


@describe.register
def _(metric: PSGD, shape: Shape) -> str:
    layout = block_layout(metric.product, tuple(shape))
    return f"{type(metric.solver).__name__}: {layout}, power {metric.power:g}"


@coordinates.register
def _(metric: PSGD, shape: Shape, whole: bool) -> Coordinates:
    kept = InverseFactors(block_layout(metric.product, tuple(shape)).only(*MODES), whole)
    lines = [*kept.counting_usable(), *_follow(metric.solver, metric, kept)]
    slots = kept.identities("root") + kept.identities("inverse") + kept.numbers("bound")
    return kept.coordinates([_at_times(each, metric.every) for each in lines], slots)


def _at_times(each: Line, every: int) -> Line:
    """The line, in every so many-th of the steps that it runs in."""
    return replace(each, every=every * each.every)


@singledispatch
def _follow(solver: Solver, metric: PSGD, kept: InverseFactors) -> list[Line]:
    """Lines that advance the factors by a sample."""
    raise TypeError(f"{solver} is declared, but nothing follows it")


@_follow.register
def _(solver: PRO, metric: PSGD, kept: InverseFactors) -> list[Line]:
    share = 0.5 / len(kept.factors)  # of each P_i in S^-1/2
    lines = [
        *kept.white("inverse"),
        kept.on_weight("gain", factors.size_gain, "white", "fresh", "seen", beta=metric.size_beta),
        # The size first, in one go: the steps that follow are bounded, and would take long.
        kept.on_weight("white", gauge.regauge, "white", "gain", power=-0.5),
        *kept.resized(root=-share / 2, inverse=-share),
    ]
    for each in kept.factors:
        lines.append(_moment(metric, kept, each, psgd.whitened_moment, "inverse"))
        lines.append(_bound(metric, each, f"moment_{each.name}"))
    lines += kept.gauges()
    for each in kept.factors:
        reads = (f"{name}_{each.name}" for name in ("moment", "bound", "gauge"))
        lines.append(_step(metric, each, psgd.whitening_step, *reads))
        if each.is_matrix:
            root, every = f"root_{each.name}", solver.rotate_every
            lines.append(line(root, psgd.rotated, root, on=each.shape, every=every))
    return lines + kept.squares()


@_follow.register
def _(solver: EQ, metric: PSGD, kept: InverseFactors) -> list[Line]:
    lines = kept.white("root")
    for each in kept.factors:
        root = f"root_{each.name}"
        lines.append(
            line(f"inverse_{root}", psgd.inverse_factor, root, on=each.shape, kind=each.kind)
        )
    white = ("white", "fresh", "seen", *named("inverse_root", kept.factors))
    share = 0.25 / len(kept.factors)  # of each K_i in S^-1/2
    lines += [
        kept.on_weight(
            "gain", psgd.size_balance, *white, beta=metric.size_beta, kinds=kinds(kept.factors)
        ),
        kept.on_weight("white", gauge.regauge, "white", "gain", power=-0.25),
        *kept.resized(root=-share, inverse_root=share),
    ]
    for each in kept.factors:
        order, prior = kept.first(each), f"prior_{each.name}"
        lines.append(_moment(metric, kept, each, psgd.triangular_moment, "root"))
        names = named("inverse_root", order)
        lines.append(line(prior, psgd.prior, *names, on=each.shape, kinds=kinds(order)))
        lines.append(_bound(metric, each, f"moment_{each.name}", prior))
    lines += kept.gauges()
    for each in kept.factors:
        reads = (f"{name}_{each.name}" for name in ("moment", "prior", "bound", "gauge"))
        lines.append(_step(metric, each, psgd.triangular_step, *reads))
    return lines + (kept.squares() if kept.whole else [])


def _moment(metric: PSGD, kept: InverseFactors, factor: Factor, op: Op, seen_through: str) -> Line:
    """moment_i: what the white sample says of factor i."""
    order = kept.first(factor)
    return kept.on_weight(
        f"moment_{factor.name}",
        op,
        *("white", "usable", *named(seen_through, order)),
        **kept.along(factor),
        damping=metric.damping,
        kinds=kinds(order),
    )


def _bound(metric: PSGD, factor: Factor, *reads: str) -> Line:
    """bound_i: a Lipschitz constant, by which a step is divided."""
    bound = f"bound_{factor.name}"
    return line(
        bound,
        psgd.running_bound,
        *(bound, "fresh", *reads),
        on=factor.shape,
        beta=metric.bound_beta,
        kind=factor.kind,
    )


def _step(metric: PSGD, factor: Factor, op: Op, *reads: str) -> Line:
    """root_i, a step further."""
    root = f"root_{factor.name}"
    return line(
        root,
        op,
        *(root, *reads, "fresh", "seen"),
        on=factor.shape,
        rate=metric.rate,
        last_rate=metric.last_rate,
        horizon=metric.horizon,
        kind=factor.kind,
    )
