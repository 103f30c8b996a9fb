"""How KFAC's metrics are kept: averaged moments of a layer's data, and their cached roots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from operator import mul
from typing import Any

from torch import Tensor

from modula.duality.metrics.block_layout import BlockLayout, Factor
from modula.duality.metrics.coordinates import Applied, Coordinates, coordinates, describe
from modula.duality.metrics.layer_eigenvalues import PowerOfCurvature
from modula.duality.metrics.layer_layout import layer_layout
from modula.duality.metrics.maps import InBasis, InverseAlong
from modula.duality.program.line import Line, Live, line
from modula.duality.program.slot import Slot
from modula.kernels.moments import layer, root, samples
from modula.kernels.moments.second_moment import mean_eigenvalue
from modula.kernels.op import Cost, Op, Shape, elementwise_cost
from modula.norms.maps.linear import LinearMap, spread
from modula.norms.metrics.layer import Damping, Exact, LayerMoments


def _damped_root(
    factor: Tensor,
    previous: Tensor,
    *others: Tensor,
    power: float,
    damping: Damping,
    blocks: int = 0,
) -> Tensor:
    """(S + damping I)^-power of each block, or the previous one where there is none."""
    own, *rest = (mean_eigenvalue(each, 2) for each in (factor, *others))
    sizes = [each.mean(tuple(range(-blocks, 0))) if blocks else each for each in (own, *rest)]
    share = (damping.amount(own, sizes) / own).unsqueeze(-1)
    return root.inverse_root(factor, previous, power=power, damping=share)


damped_root = Op("damped_root", _damped_root, root.inverse_root.cost)


def _layout(metric: LayerMoments, shape: Shape) -> BlockLayout:
    sides = tuple(metric.sides)
    return layer_layout(tuple(shape), sides, metric.inputs_first, metric.square, metric.max_dim)


@describe.register
def _(metric: LayerMoments, shape: Shape) -> str:
    sides = " x ".join(
        f"{metric.sides[each.name]} {each.size}"
        + (f" in {prod(each.blocks)} blocks" if prod(each.blocks) > 1 else "")
        for each in _layout(metric, shape).factors
    )
    return f"{sides}, power {metric.power:g}, {metric.damping}"


@coordinates.register
def _(metric: LayerMoments, shape: Shape, whole: bool) -> Coordinates:
    layout = _layout(metric, shape)
    power = metric.power * (1.0 if whole else 0.5)
    inverted = _by_eigenvalues if isinstance(metric.damping, Exact) else _by_roots
    found = inverted(metric, layout, power)
    observed = (each for factor in layout.factors for each in _observed(metric, factor))
    lines = (*observed, *found.before)
    first = metric.memory.first
    slots: list[tuple[str, Slot]] = []
    for each in layout.factors:
        slots.append((f"factor_{each.name}", Slot(each.shape, diagonal=first)))
        slots += [(f"{count}_{each.name}", Slot(())) for count in ("seen", "rejected")]
    return replace(
        found,
        before=lines if metric.instant else (),
        after=() if metric.instant else lines,
        slots=(*slots, *found.slots),
        view=layout.view,
    )


def _observed(metric: LayerMoments, factor: Factor) -> list[Line]:
    """Lines that average a statistic, or count that it was none."""
    read, every = metric.sides[factor.name], metric.sample_every
    kept, seen, rejected = (f"{name}_{factor.name}" for name in ("factor", "seen", "rejected"))
    options: dict[str, Any] = {"counts": factor.blocks} if factor.blocks else {}
    return [
        line(seen, samples.tally_moment, seen, read, every=every),
        line(
            kept,
            layer.average_blocks,
            *(kept, read, seen),
            on=factor.shape,
            every=every,
            **options,
            beta=Live("beta", metric.memory.beta),
            unbiased=metric.memory.unbiased,
        ),
        line(rejected, samples.rejected_moments, rejected, read, every=every),
    ]


def _by_roots(metric: LayerMoments, layout: BlockLayout, power: float) -> Coordinates:
    """The root of each damped factor, renewed now and then."""
    first = metric.memory.first
    unseen = first**-power if first else 1.0
    return Coordinates(
        before=tuple(_renewed(metric, layout, each, power) for each in layout.factors),
        core=tuple(
            Applied(InverseAlong(each.dim), (f"root_{each.name}",), layout.shape)
            for each in layout.factors
        ),
        slots=tuple((f"root_{each.name}", each.identity(unseen)) for each in layout.factors),
    )


def _renewed(metric: LayerMoments, layout: BlockLayout, factor: Factor, power: float) -> Line:
    """root_i from its factor; the other one too says how much damping it gets."""
    others = (f"factor_{each.name}" for each in layout.factors if each is not factor)
    options: dict[str, Any] = {"power": power, "damping": metric.damping}
    if factor.blocks:
        options["blocks"] = len(factor.blocks)
    reads = (f"factor_{factor.name}", f"root_{factor.name}", *others)
    return line(reads[1], damped_root, *reads, on=factor.shape, every=metric.every, **options)


def _by_eigenvalues(metric: LayerMoments, layout: BlockLayout, power: float) -> Coordinates:
    """The eigenvectors and eigenvalues of each factor, renewed now and then."""
    factors, first = layout.factors, metric.memory.first
    build = PowerOfProduct(power, metric.damping, tuple(each.dim for each in factors))
    slots: list[tuple[str, Slot]] = []
    for each in factors:
        slots.append((f"basis_{each.name}", each.identity()))
        slots.append((f"values_{each.name}", Slot(each.shape[:-1], fill=first)))
    return Coordinates(
        before=tuple(each for factor in factors for each in _decomposed(metric, factor)),
        core=(Applied(build, tuple(f"values_{each.name}" for each in factors), layout.shape),),
        rotations=tuple(
            Applied(InBasis(each.dim), (f"basis_{each.name}",), layout.shape) for each in factors
        ),
        slots=tuple(slots),
    )


def _decomposed(metric: LayerMoments, factor: Factor) -> list[Line]:
    kept, basis, values = (f"{name}_{factor.name}" for name in ("factor", "basis", "values"))
    shape, every = factor.shape, metric.every
    return [
        line(basis, layer.eigenbasis, kept, basis, on=shape, every=every),
        line(values, layer.eigenvalues, kept, basis, values, on=shape, every=every),
    ]


@dataclass(frozen=True)
class PowerOfProduct:
    """C = (b_i a_j + damping)^power, entry by entry, of both factors' eigenvalues or of one's."""

    power: float
    damping: Damping
    dims: tuple[int, ...]

    def __call__(self, *tensors: Tensor) -> LinearMap:
        pairs = zip(self.dims, tensors, strict=True)
        product = reduce(mul, (spread(values, dim, 2) for dim, values in pairs))
        return PowerOfCurvature(self.power, self.damping)(product)

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        return elementwise_cost(5, 3)(shape, itemsize)

    def __str__(self) -> str:
        return "product of eigenvalues"
