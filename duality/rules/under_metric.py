"""Rules under a metric: dir = C^-1 dual(C^-T m), the sandwich, and the chain dual(S^-p m)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import cast

from torch import Tensor

from modula.duality.metrics.coordinates import Coordinates, coordinates
from modula.duality.metrics.views import view_ops
from modula.duality.program.cost import cost_of_projections, cost_of_rounds
from modula.duality.program.line import Line, Live, line, renamed
from modula.duality.rules.on_manifold import tangent_line
from modula.duality.rules.retraction import retraction
from modula.duality.rules.silence import active_line
from modula.duality.rules.solvers.general import ROUNDS, steepest_tangent
from modula.duality.rules.solvers.hyperplane import is_hyperplane, steepest
from modula.duality.rules.solvers.projections import onto_ball
from modula.duality.rules.solvers.region import steepest_in_region
from modula.duality.setting.derive import Derived, Measured, Setting, derive, derives
from modula.duality.setting.potential import Sharp, Unit, Within
from modula.kernels.elementwise.whiten import whiten
from modula.kernels.op import Op, Shape
from modula.manifolds.base import Manifold
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.region import Region
from modula.norms.base import Norm
from modula.norms.in_coordinates import InCoordinates, Quadratic
from modula.norms.metrics.base import First, Metric
from modula.norms.metrics.diagonal import Diagonal
from modula.norms.vector import L2

Through = Callable[[str], tuple[tuple[Line, ...], str]]  # down, up or whitened of Coordinates


class _MetricLines:
    """The lines of a metric on a weight: through the metric's view of it as blocks, if it has one.

    statistic  name of what the lines that estimate call "sample"
    """

    def __init__(self, found: Coordinates, statistic: str, shape: Shape) -> None:
        self.found = found
        self.statistic = statistic
        self.shape = tuple(shape)
        self._has_cut = False

    def observing(self, lines: tuple[Line, ...]) -> tuple[Line, ...]:
        """Lines that estimate, which read "sample"."""
        if not any("sample" in each.reads for each in lines):
            return lines
        if self.found.view is None:
            return renamed(lines, {"sample": self.statistic})
        if self._has_cut:  # "sample" stands from the lines before the direction on
            return lines
        self._has_cut = True
        cut, _ = view_ops(self.found.view, self.shape)
        return (line("sample", cut, self.statistic), *lines)

    def through(self, way: Through, read: str, result: str) -> tuple[Line, ...]:
        """result = C^-T, C^-1 or S^-p read, as `way` of the coordinates says."""
        if self.found.view is None:
            lines, name = way(read)
            return renamed(lines, {name: result})
        cut, paste = view_ops(self.found.view, self.shape)
        blocks = f"{read}_blocks"
        lines, name = way(blocks)
        return (line(blocks, cut, read), *lines, line(result, paste, name))


def _in_coordinates(norm: Norm, found: Coordinates) -> Measured:
    """norm(C x)"""
    return Measured(found.reads, lambda tensors: InCoordinates(norm, found.known(tensors)))


def _under_form(found: Coordinates, ndim: int) -> Measured:
    """sqrt(<x, S^p x>)"""
    return Measured(found.reads, lambda tensors: Quadratic(found.form(tensors), ndim))


@derives(L2, Euclidean, Diagonal, Sharp)
def adam(setting: Setting, shape: Shape) -> Derived:
    """Adam: with C^T C = S^(1/2), the sandwich of the Euclidean dual is S^(-1/2) m.

    Source: Kingma and Ba 2015, arXiv:1412.6980.
    """
    metric = cast(Diagonal, setting.metric)
    found = coordinates(metric, shape, whole=True)
    scale = metric.batch**-metric.power
    floor = Live("eps", metric.floor, scale)
    return Derived(
        (
            *_MetricLines(found, metric.statistic, shape).observing(found.before),
            line("direction", whiten, "query", "square", power=metric.power, floor=floor),
        ),
        scale=scale,
        slots=found.slots,
        measured=_under_form(found, len(shape)),
    )


@derives(L2, Euclidean, Metric, Sharp)
def preconditioned(setting: Setting, shape: Shape) -> Derived:
    """The plain preconditioned gradient: S^-p m.  Shampoo, KL-Shampoo, SOAP, KFAC."""
    metric = cast(Metric, setting.metric)
    found = coordinates(metric, shape, whole=True)
    kept = _MetricLines(found, metric.statistic, shape)
    return Derived(
        (
            *kept.observing(found.before),
            *kept.through(found.whitened, "query", "direction"),
            *kept.observing(found.after),
        ),
        slots=found.slots,
        measured=_under_form(found, len(shape)),
    )


@derives(Norm, Euclidean, Metric, Unit)
@derives(Norm, Euclidean, Metric, Sharp)
def sandwich(setting: Setting, shape: Shape) -> Derived:
    """C^-1 dual(C^-T m): the steepest direction of the norm in the metric's coordinates."""
    metric = cast(Metric, setting.metric)
    found = coordinates(metric, shape, whole=False)
    kept = _MetricLines(found, metric.statistic, shape)
    inner = derive(replace(setting, metric=None), shape)
    names = {"query": "seen_query", "direction": "inner_direction"}
    seen = kept.through(found.down, "query", "seen_query")
    inner_direction = names.get(inner.direction, inner.direction)
    back = kept.through(found.up, inner_direction, "direction")
    return Derived(
        (
            *kept.observing(found.before),
            *seen,
            *renamed(inner.lines, names),
            *back,
            *kept.observing(found.after),
        ),
        scale=inner.scale,
        slots=(*found.slots, *inner.slots),
        measured=_in_coordinates(setting.norm, found),
    )


@derives(Norm, Euclidean, First, Unit)
def chain(setting: Setting, shape: Shape) -> Derived:
    """dual(S^-p m): first the metric, then the norm.  No descent is guaranteed."""
    metric = cast(First, setting.metric).metric
    found = coordinates(metric, shape, whole=True)
    kept = _MetricLines(found, metric.statistic, shape)
    inner = derive(replace(setting, metric=None), shape)
    momentum = setting.momentum.between()
    between = {"gradient": "preconditioned", "query": "followed"}
    followed = between.get(momentum.query, momentum.query) if momentum else "preconditioned"
    average = momentum.lines() if momentum else ()
    averages = momentum is not None or setting.momentum.query != "gradient"
    still = (active_line(setting.norm, followed),) if averages else ()
    names = {"query": still[0].result if still else followed}
    return Derived(
        (
            *kept.observing(found.before),
            *kept.through(found.whitened, "query", "preconditioned"),
            *renamed(average, between),
            *still,
            *renamed(inner.lines, names),
            *kept.observing(found.after),
        ),
        scale=inner.scale,
        direction=names.get(inner.direction, inner.direction),
        slots=(*found.slots, *inner.slots, *(momentum.slots if momentum else ())),
    )


@derives(Norm, Euclidean, Metric, Within)
def within(setting: Setting, shape: Shape) -> Derived:
    """The dual-norm scaled direction, projected on the ball of another norm.  Sophia.

    With a diagonal metric and the largest entry it is exactly
    argmin <m, d> + ||d||^2 / 2 over max |d| <= radius.  Source: Liu et al. 2023, arXiv:2305.14342.
    """
    potential = cast(Within, setting.potential)
    free = derive(replace(setting, potential=Sharp()), shape)
    op = _project_op(potential.norm, potential.radius / free.scale)  # the step scales it back
    return replace(
        free,
        lines=(*free.lines, line("inside", op, free.direction)),
        direction="inside",
        measured=None,
    )


@cache
def _project_op(norm: Norm, radius: float) -> Op:
    return Op(f"project[{norm} <= {radius:g}]", onto_ball(norm, radius), cost_of_projections(norm))


@derives(Norm, Manifold, Metric)
def sandwich_on_manifold(setting: Setting, shape: Shape) -> Derived:
    """The steepest unit tangent of a norm in the metric's coordinates, by the general solver."""
    return _constrained(setting, shape, (tangent_line(setting.manifold, shape),), "tangent")


@derives(Norm, Region, Metric)
def sandwich_in_region(setting: Setting, shape: Shape) -> Derived:
    """The same along the boundary of a region, where the normal part of the query matters too."""
    return _constrained(setting, shape, (), "query")


def _constrained(setting: Setting, shape: Shape, first: tuple[Line, ...], read: str) -> Derived:
    metric = cast(Metric, setting.metric)
    found = coordinates(metric, shape, whole=False)
    kept = _MetricLines(found, metric.statistic, shape)
    measured = _in_coordinates(setting.norm, found)
    op = _solver_op(setting.norm, setting.manifold, measured)
    return Derived(
        (
            *kept.observing(found.before),
            *first,
            line("direction", op, "weight", read, *measured.reads),
            *kept.observing(found.after),
        ),
        after=retraction(setting.manifold, len(shape)),
        slots=found.slots,
        measured=measured,
    )


def _solver_op(norm: Norm, manifold: Manifold, measured: Measured) -> Op:
    def solve(weight: Tensor, gradient: Tensor, *tensors: Tensor) -> Tensor:
        """argmax <gradient, A> over norm(C A) <= 1, A tangent at weight."""
        known = measured.norm(tensors)
        if isinstance(manifold, Region):
            return steepest_in_region(known, manifold, weight, gradient)
        if is_hyperplane(norm, manifold, weight.shape):
            return steepest(known, manifold, weight, gradient)
        return steepest_tangent(known, manifold, weight, gradient)

    return Op(f"sandwich[{norm}, {manifold}]", solve, cost_of_rounds(norm, manifold, ROUNDS))
