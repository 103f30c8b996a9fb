"""How EKFAC's metric is kept: a diagonal in the eigenbasis of a layer's moments."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from modula.duality.metrics.block_layout import BlockLayout, Factor
from modula.duality.metrics.coordinates import Applied, Coordinates, coordinates, describe
from modula.duality.metrics.layer_layout import SIDES, layer_layout, matrix_shape
from modula.duality.metrics.maps import InBasis
from modula.duality.program.line import Line, Live, line
from modula.duality.program.slot import Slot
from modula.kernels.elementwise import update
from modula.kernels.moments import layer
from modula.kernels.op import Cost, Shape, elementwise_cost
from modula.norms.maps.linear import Elementwise, LinearMap
from modula.norms.metrics.layer import Damping, LayerEigenvalues


@dataclass(frozen=True)
class PowerOfCurvature:
    """C = (D + damping)^power, entry by entry; 1 before anything was seen."""

    power: float
    damping: Damping

    def __call__(self, *tensors: Tensor) -> LinearMap:
        (curvature,) = tensors
        size = curvature.mean((-2, -1))
        damped = curvature + self.damping.amount(size, [size])[..., None, None]
        safe = damped.where(damped > 0, 1.0)
        return Elementwise(safe.where((size > 0)[..., None, None], 1.0) ** self.power)

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        return elementwise_cost(4, 4)(shape, itemsize)

    def __str__(self) -> str:
        return "curvature"


@describe.register
def _(metric: LayerEigenvalues, shape: Shape) -> str:
    return (
        f"eigenbases of {metric.outputs} x {metric.inputs}, power {metric.power:g}, "
        f"{metric.damping}"
    )


@coordinates.register
def _(metric: LayerEigenvalues, shape: Shape, whole: bool) -> Coordinates:
    layout = _layout(metric, shape)
    lines = (*_bases(metric, layout), _eigenvalues(metric, layout))
    power = metric.power * (1.0 if whole else 0.5)
    slots = [("curvature", Slot(layout.shape, fill=metric.memory.first))]
    slots += [("seen", Slot(())), ("rejected", Slot(()))]
    for each in layout.factors:
        slots.append((f"factor_{each.name}", Slot(each.shape)))
        slots.append((f"basis_{each.name}", each.identity()))
    return Coordinates(
        before=lines if metric.instant else (),
        core=(Applied(PowerOfCurvature(power, metric.damping), ("curvature",), layout.shape),),
        after=() if metric.instant else lines,
        rotations=tuple(
            Applied(InBasis(each.dim), (f"basis_{each.name}",), layout.shape)
            for each in layout.factors
        ),
        slots=tuple(slots),
        view=layout.view,
    )


def _layout(metric: LayerEigenvalues, shape: Shape) -> BlockLayout:
    """Uncut, with a factor for each side that is not too wide to be decomposed."""
    sizes = dict(zip(SIDES, matrix_shape(shape, metric.inputs_first), strict=True))
    turned = tuple(side for side, size in sizes.items() if size <= metric.max_dim)
    return layer_layout(tuple(shape), turned, metric.inputs_first)


def _bases(metric: LayerEigenvalues, layout: BlockLayout) -> list[Line]:
    """The rows join the moments; now and then the bases, and the curvature with them, turn."""
    both, sample_every = (metric.inputs, metric.outputs), metric.sample_every
    observed = [
        line("seen", layer.tally_rows, "seen", *both, every=sample_every),
        line("rejected", layer.rejected_rows, "rejected", *both, every=sample_every),
    ]
    renewed: list[Line] = []
    for each in layout.factors:
        observed.append(_averaged(metric, each))
        renewed += _turned(metric, layout, each)
    return observed + renewed


def _averaged(metric: LayerEigenvalues, factor: Factor) -> Line:
    """factor_i: the moment of the rows of one side."""
    kept = f"factor_{factor.name}"
    rows = {"outputs": metric.outputs, "inputs": metric.inputs}[factor.name]
    return line(
        kept,
        layer.average_rows,
        *(kept, rows, "seen"),
        on=factor.shape,
        every=metric.sample_every,
        beta=Live("beta", metric.memory.beta),
        unbiased=metric.memory.unbiased,
    )


def _turned(metric: LayerEigenvalues, layout: BlockLayout, factor: Factor) -> list[Line]:
    """Lines that renew the basis of one side, and turn the curvature from the old one to it."""
    kept, basis, fresh = (f"{name}_{factor.name}" for name in ("factor", "basis", "fresh"))
    every, turn = metric.every, layer.turn_curvature
    return [
        line(fresh, layer.eigenbasis, kept, basis, on=factor.shape, every=every),
        line(
            "curvature",
            turn,
            *("curvature", fresh, basis),
            on=layout.shape,
            every=every,
            dim=factor.dim,
        ),
        line(basis, update.copy, fresh, on=factor.shape, every=every),
    ]


def _eigenvalues(metric: LayerEigenvalues, layout: BlockLayout) -> Line:
    turned = [each.name for each in layout.factors]
    return line(
        "curvature",
        layer.average_curvature,
        *("curvature", metric.inputs, metric.outputs, "seen"),
        *(f"basis_{side}" for side in turned),
        on=layout.shape,
        every=metric.sample_every,
        rotated=("outputs" in turned, "inputs" in turned),
        beta=Live("beta", metric.memory.beta),
        unbiased=metric.memory.unbiased,
    )
