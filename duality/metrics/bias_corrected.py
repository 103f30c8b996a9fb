"""How metrics whose inverse is corrected for the noise of a batch are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import singledispatch

from torch import Tensor

from modula.duality.metrics.block_layout import BlockLayout, Factor, block_layout
from modula.duality.metrics.coordinates import Applied, Coordinates, coordinates, describe
from modula.duality.metrics.kronecker import MomentLines
from modula.duality.metrics.views import view_ops
from modula.duality.program.line import Line, Live, line
from modula.duality.program.names import MICROBATCHES, SAMPLED_MICROBATCHES
from modula.duality.program.slot import Slot
from modula.kernels.moments import bias_corrected
from modula.kernels.op import Cost, Shape, elementwise_cost
from modula.norms.maps.linear import Elementwise, Inverse, LinearMap
from modula.norms.metrics.base import Metric
from modula.norms.metrics.bias_corrected import CrossFitted, VarianceCorrected
from modula.norms.metrics.diagonal import Diagonal
from modula.norms.metrics.kronecker import Dense, DiagonalMode, Flat, Kronecker

AS_STEPPED = line("parts", bias_corrected.as_stepped, "gradient", MICROBATCHES)


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
    read, beta = SAMPLED_MICROBATCHES, Live("beta", metric.memory.beta)
    unseen = (metric.batch * metric.memory.first) ** metric.power + metric.floor
    return Coordinates(
        before=(
            line("square", bias_corrected.average_part_squares, "square", read, beta=beta),
            line(
                "inverse",
                bias_corrected.corrected_inverse,
                *("square", read),
                beta=beta,
                power=metric.power,
                floor=Live("eps", metric.floor),
                batch=metric.batch,
            ),
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
    layout = block_layout(metric, tuple(shape)).only(Dense, DiagonalMode, Flat)
    moments = MomentLines(metric, layout, power=None)
    roots = {f"root_{each.name}": each for each in layout.factors}

    def corrected(lines: tuple[Line, ...]) -> tuple[Line, ...]:
        plain = [each for each in lines if each.result not in roots]
        turned = [
            _root(each, moments, roots[each.result]) for each in lines if each.result in roots
        ]
        every = min((each.every for each in turned), default=1)
        return (*plain, *(replace(each, every=every) for each in _parts(layout, shape)), *turned)

    before, after = (corrected(lines) if lines else () for lines in (found.before, found.after))
    return replace(found, before=before, after=after)


def _parts(layout: BlockLayout, shape: Shape) -> tuple[Line, ...]:
    """Lines that cut the gradients of the microbatches into blocks, as the metric's sample is."""
    if layout.view is None:
        return (AS_STEPPED,)
    cut, _ = view_ops(layout.view, tuple(shape))
    return (AS_STEPPED, line("parts", cut, "parts"))


def _root(plain: Line, moments: MomentLines, factor: Factor) -> Line:
    """The line that makes the root of a factor, with the noise of the parts taken out."""
    kernel = bias_corrected
    op = kernel.corrected_root if factor.is_matrix else kernel.corrected_root_diagonal
    options = {**plain.values(), **moments.averaging(factor), "blocks": len(factor.blocks)}
    reads = (f"factor_{factor.name}", plain.result, "seen", "parts")
    return replace(plain, op=op, reads=reads, options=tuple(options.items()))
