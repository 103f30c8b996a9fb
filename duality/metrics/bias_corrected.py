"""How metrics with a corrected inverse are kept, and the direction that microbatches agree on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import singledispatch
from typing import cast

from torch import Tensor

from modula.duality.metrics.block_layout import Fitted, fit
from modula.duality.metrics.coordinates import Applied, Coordinates, coordinates, describe
from modula.duality.metrics.diagonal import average_of_squares
from modula.duality.metrics.kronecker import Keeper
from modula.duality.program.line import Line, Live, line
from modula.duality.program.names import MICROBATCHES, SAMPLED_MICROBATCHES
from modula.duality.program.slot import Slot
from modula.duality.rules.unconstrained import view_ops
from modula.duality.rules.under_metric import preconditioned
from modula.duality.setting.derive import Derived, Setting, derives
from modula.duality.setting.momentum import Unbiased
from modula.duality.setting.potential import Sharp
from modula.kernels.moments import bias_corrected
from modula.kernels.op import Cost, Shape, elementwise_cost
from modula.manifolds.euclidean import Euclidean
from modula.norms.maps.linear import Elementwise, Inverse, LinearMap
from modula.norms.metrics.base import Metric
from modula.norms.metrics.bias_corrected import CrossFitted, VarianceCorrected
from modula.norms.metrics.diagonal import Diagonal
from modula.norms.metrics.kronecker import Dense, DiagonalMode, Flat, Kronecker
from modula.norms.vector import L2

AS_STEPPED = line("parts", bias_corrected.as_stepped, "gradient", MICROBATCHES)


@derives(L2, Euclidean, CrossFitted, Sharp)
def cross_fitted(setting: Setting, shape: Shape) -> Derived:
    """The mean of m_r / x_r less its bias, each microbatch in the metric of the others.

    Source: Nayak et al. 2026, arXiv:2605.20756.
    """
    metric, momentum = cast(CrossFitted, setting.metric).metric, setting.momentum
    if not isinstance(momentum, Unbiased):
        raise ValueError(f"CrossFitted follows an Unbiased momentum, as Adam does; got {momentum}")
    scale = metric.batch**-metric.power
    direction = line(
        "direction",
        bias_corrected.cross_fitted,
        *("query", "parts", "square", "step"),
        momentum=Live("momentum", momentum.beta),
        beta=metric.memory.beta,
        power=metric.power,
        floor=metric.floor * scale,
    )
    average = average_of_squares(metric.memory, "square", "gradient")
    slots = (("square", Slot(second_moment=True)),)
    return Derived((AS_STEPPED, direction, *average), scale=scale, slots=slots)


@derives(L2, Euclidean, VarianceCorrected, Sharp)
def variance_corrected(setting: Setting, shape: Shape) -> Derived:
    """The corrected inverse of S^p times m: some of its eigenvalues may be zero, and S^p is then
    no form that a norm could be made of.
    """
    return replace(preconditioned(setting, shape), measured=None)


@coordinates.register
def _(metric: CrossFitted, shape: Shape, whole: bool) -> Coordinates:
    raise _no_coordinates(metric)


@coordinates.register
def _(metric: VarianceCorrected, shape: Shape, whole: bool) -> Coordinates:
    if not whole:
        raise _no_coordinates(metric)
    return _corrected(metric.metric, shape)


def _no_coordinates(metric: Metric) -> ValueError:
    return ValueError(
        f"{metric} gives a direction and no coordinates: it stands under L2 with Sharp() on a "
        "weight without a manifold"
    )


@describe.register
def _(metric: CrossFitted | VarianceCorrected, shape: Shape) -> str:
    how = "cross-fitted" if isinstance(metric, CrossFitted) else "variance-corrected"
    return f"{how} {describe(metric.metric, shape)}"


@singledispatch
def _corrected(metric: Metric, shape: Shape) -> Coordinates:
    """The whole of S^p by its corrected inverse."""
    raise TypeError(f"nothing corrects {metric}")


@dataclass(frozen=True)
class KnownInverse:
    """The map whose inverse multiplies entry by entry."""

    def __call__(self, *tensors: Tensor) -> LinearMap:
        (inverse,) = tensors
        return Inverse(Elementwise(inverse))

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        return elementwise_cost(1, 3)(shape, itemsize)

    def __str__(self) -> str:
        return "corrected diagonal"


@_corrected.register
def _(metric: Diagonal, shape: Shape) -> Coordinates:
    options = {"beta": metric.memory.beta, "power": metric.power}
    options |= {"floor": metric.floor, "batch": metric.batch}
    read, beta = SAMPLED_MICROBATCHES, metric.memory.beta
    unseen = (metric.batch * metric.memory.first) ** metric.power + metric.floor
    return Coordinates(
        before=(
            line("square", bias_corrected.average_part_squares, "square", read, beta=beta),
            line("inverse", bias_corrected.corrected_inverse, "square", read, **options),
        ),
        core=(Applied(KnownInverse(), ("inverse",)),),
        slots=(
            ("square", Slot(fill=metric.memory.first, second_moment=True)),
            ("inverse", Slot(fill=1 / unseen if unseen else 1.0)),
        ),
    )


@_corrected.register
def _(metric: Kronecker, shape: Shape) -> Coordinates:
    found = coordinates(metric, shape, True)
    fitted = fit(metric, shape).only(Dense, DiagonalMode, Flat)
    roots = {f"root_{i}": i for i in fitted.estimated}

    def corrected(lines: tuple[Line, ...]) -> tuple[Line, ...]:
        plain = [each for each in lines if each.result not in roots]
        turned = [_root(each, fitted, roots[each.result]) for each in lines if each.result in roots]
        every = min((each.every for each in turned), default=1)
        return (*plain, *(replace(each, every=every) for each in _parts(fitted, shape)), *turned)

    before, after = (corrected(lines) if lines else () for lines in (found.before, found.after))
    return replace(found, before=before, after=after)


def _parts(fitted: Fitted, shape: Shape) -> tuple[Line, ...]:
    """Lines that cut the gradients of the microbatches into blocks, as the metric's sample is."""
    if fitted.view is None:
        return (AS_STEPPED,)
    cut, _ = view_ops(fitted.view, tuple(shape))
    return (AS_STEPPED, line("parts", cut, "parts"))


def _root(plain: Line, fitted: Fitted, i: int) -> Line:
    """The line that makes the root of factor i, with the noise of the parts taken out."""
    kernel = bias_corrected
    op = kernel.corrected_root if fitted.dense(i) else kernel.corrected_root_diagonal
    options = {**plain.values(), **Keeper(fitted, None).averaging(i), "blocks": len(fitted.counted)}
    reads = (f"factor_{i}", plain.result, "seen", "parts")
    return replace(plain, op=op, reads=reads, options=tuple(options.items()))
