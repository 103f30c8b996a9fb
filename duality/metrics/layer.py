"""How metrics of a layer's data are kept: averaged moments, cached roots, a turned diagonal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from operator import mul
from typing import Any

from torch import Tensor

from modula.duality.metrics.coordinates import (
    Applied,
    Coordinates,
    coordinates,
    describe,
    with_cost_of,
)
from modula.duality.metrics.kronecker import InverseAlong
from modula.duality.metrics.layer_layout import DIMS, Matrix
from modula.duality.program.line import Line, line
from modula.duality.program.slot import Slot
from modula.kernels.elementwise import update
from modula.kernels.moments import layer, root, samples
from modula.kernels.moments.second_moment import mean_eigenvalue
from modula.kernels.moments.structure import FULL
from modula.kernels.op import Cost, Op, Shape, elementwise_cost
from modula.norms.maps.linear import Elementwise, LinearMap, Rotation, spread
from modula.norms.metrics.base import Memory
from modula.norms.metrics.layer import Damping, Exact, LayerEigenvalues, LayerMoments


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


def _matrix(metric: LayerMoments | LayerEigenvalues, shape: Shape) -> Matrix:
    if isinstance(metric, LayerEigenvalues):
        return Matrix(tuple(shape), metric.inputs_first)
    cut = tuple(metric.sides)
    return Matrix(tuple(shape), metric.inputs_first, cut, metric.square, metric.max_dim)


@describe.register
def _(metric: LayerMoments, shape: Shape) -> str:
    matrix = _matrix(metric, shape)
    sides = " x ".join(
        f"{statistic} {matrix.block[side]}"
        + (f" in {matrix.counts[side]} blocks" if matrix.counts[side] > 1 else "")
        for side, statistic in metric.sides.items()
    )
    return f"{sides}, power {metric.power:g}, {metric.damping}"


@describe.register
def _(metric: LayerEigenvalues, shape: Shape) -> str:
    return (
        f"eigenbases of {metric.outputs} x {metric.inputs}, power {metric.power:g}, "
        f"{metric.damping}"
    )


@coordinates.register
def _(metric: LayerMoments, shape: Shape, whole: bool) -> Coordinates:
    matrix = _matrix(metric, shape)
    power = metric.power * (1.0 if whole else 0.5)
    inverted = _by_eigenvalues if isinstance(metric.damping, Exact) else _by_roots
    found = inverted(metric, matrix, power)
    observed = (_observed(metric, matrix, side, read) for side, read in metric.sides.items())
    lines = (*(each for of_side in observed for each in of_side), *found.before)
    slots = (slot for side in metric.sides for slot in _slots(metric.memory, matrix, side))
    return replace(
        found,
        before=lines if metric.instant else (),
        after=() if metric.instant else lines,
        slots=(*slots, *found.slots),
        view=matrix.view,
    )


def _observed(metric: LayerMoments, matrix: Matrix, side: str, read: str) -> list[Line]:
    average: dict[str, Any] = {"beta": metric.memory.beta, "unbiased": metric.memory.unbiased}
    if matrix.is_cut:
        average = {"counts": matrix.blocks_of(side), **average}
    factor, seen, rejected = (f"{name}_{side}" for name in ("factor", "seen", "rejected"))
    lines = (
        line(seen, samples.tally_moment, seen, read),
        with_cost_of(
            line(factor, layer.average_blocks, factor, read, seen, **average), matrix.factor(side)
        ),
        line(rejected, samples.rejected_moments, rejected, read),
    )
    return [replace(each, every=metric.sample_every) for each in lines]


def _slots(memory: Memory, matrix: Matrix, side: str) -> list[tuple[str, Slot]]:
    return [
        (f"factor_{side}", Slot(matrix.factor(side), diagonal=memory.first)),
        (f"seen_{side}", Slot(())),
        (f"rejected_{side}", Slot(())),
    ]


def _by_roots(metric: LayerMoments, matrix: Matrix, power: float) -> Coordinates:
    """The root of each damped factor, renewed now and then."""
    first = metric.memory.first
    slots = {
        f"root_{side}": Slot(matrix.factor(side), diagonal=first**-power if first else 1.0)
        for side in metric.sides
    }
    return Coordinates(
        before=tuple(_renewed(metric, matrix, side, power) for side in metric.sides),
        core=tuple(
            Applied(InverseAlong(DIMS[side], 2, FULL), (f"root_{side}",), matrix.viewed)
            for side in metric.sides
        ),
        slots=tuple(slots.items()),
    )


def _renewed(metric: LayerMoments, matrix: Matrix, side: str, power: float) -> Line:
    others = [f"factor_{each}" for each in metric.sides if each != side]
    options: dict[str, Any] = {"power": power, "damping": metric.damping}
    if matrix.is_cut:
        options["blocks"] = len(matrix.blocks_of(side))
    reads = (f"factor_{side}", f"root_{side}", *others)
    each = with_cost_of(line(f"root_{side}", damped_root, *reads, **options), matrix.factor(side))
    return replace(each, every=metric.every)


def _by_eigenvalues(metric: LayerMoments, matrix: Matrix, power: float) -> Coordinates:
    """The eigenvectors and eigenvalues of each factor, renewed now and then."""
    slots: dict[str, Slot] = {}
    for side in metric.sides:
        slots[f"basis_{side}"] = Slot(matrix.factor(side), diagonal=1.0)
        slots[f"values_{side}"] = Slot(matrix.factor(side)[:-1], fill=metric.memory.first)
    build = PowerOfProduct(power, metric.damping, tuple(metric.sides))
    return Coordinates(
        before=tuple(each for side in metric.sides for each in _decomposed(metric, matrix, side)),
        core=(Applied(build, tuple(f"values_{side}" for side in metric.sides), matrix.viewed),),
        rotations=tuple(
            Applied(InBasis(DIMS[side]), (f"basis_{side}",), matrix.viewed) for side in metric.sides
        ),
        slots=tuple(slots.items()),
    )


def _decomposed(metric: LayerMoments, matrix: Matrix, side: str) -> list[Line]:
    factor, basis, values = (f"{name}_{side}" for name in ("factor", "basis", "values"))
    lines = (
        line(basis, layer.eigenbasis, factor, basis),
        line(values, layer.eigenvalues, factor, basis, values),
    )
    shape = matrix.factor(side)
    return [replace(with_cost_of(each, shape), every=metric.every) for each in lines]


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


@dataclass(frozen=True)
class PowerOfProduct:
    """C = (b_i a_j + damping)^power, entry by entry, from eigenvalues of the factors of sides."""

    power: float
    damping: Damping
    sides: tuple[str, ...]

    def __call__(self, *tensors: Tensor) -> LinearMap:
        sides = zip(self.sides, tensors, strict=True)
        product = reduce(mul, (spread(values, DIMS[side], 2) for side, values in sides))
        return PowerOfCurvature(self.power, self.damping)(product)

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        return elementwise_cost(5, 3)(shape, itemsize)

    def __str__(self) -> str:
        return "product of eigenvalues"


@dataclass(frozen=True)
class InBasis:
    """C x = Q^T applied along one dim of a matrix."""

    dim: int

    def __call__(self, *tensors: Tensor) -> LinearMap:
        (basis,) = tensors
        return Rotation(basis, self.dim)

    def cost(self, shape: Shape, itemsize: int = 4) -> Cost:
        """Of one application."""
        return Cost(2.0 * prod(shape) * shape[self.dim], 2.0 * itemsize * prod(shape))

    def __str__(self) -> str:
        return f"basis of dim {self.dim}"


@coordinates.register
def _(metric: LayerEigenvalues, shape: Shape, whole: bool) -> Coordinates:
    matrix = _matrix(metric, shape)
    turned = [side for side, size in matrix.sizes.items() if size <= metric.max_dim]
    lines = (*_bases(metric, matrix, turned), *_eigenvalues(metric, matrix, turned))
    power = metric.power * (1.0 if whole else 0.5)
    first = metric.memory.first
    slots = [("curvature", Slot(matrix.viewed, fill=first)), ("seen", Slot(()))]
    slots.append(("rejected", Slot(())))
    for side in turned:
        slots.append((f"factor_{side}", Slot(matrix.factor(side))))
        slots.append((f"basis_{side}", Slot(matrix.factor(side), diagonal=1.0)))
    return Coordinates(
        before=lines if metric.instant else (),
        core=(Applied(PowerOfCurvature(power, metric.damping), ("curvature",), matrix.viewed),),
        after=() if metric.instant else lines,
        rotations=tuple(
            Applied(InBasis(DIMS[side]), (f"basis_{side}",), matrix.viewed) for side in turned
        ),
        slots=tuple(slots),
        view=matrix.view,
    )


def _bases(metric: LayerEigenvalues, matrix: Matrix, turned: list[str]) -> list[Line]:
    """The rows join the moments; now and then the bases, and the curvature with them, turn."""
    rows = {"outputs": metric.outputs, "inputs": metric.inputs}
    average = {"beta": metric.memory.beta, "unbiased": metric.memory.unbiased}
    both = (metric.inputs, metric.outputs)
    observed = [
        line("seen", layer.tally_rows, "seen", *both),
        line("rejected", layer.rejected_rows, "rejected", *both),
    ]
    renewed = []
    for side in turned:
        factor, basis, fresh = (f"{name}_{side}" for name in ("factor", "basis", "fresh"))
        each = line(factor, layer.average_rows, factor, rows[side], "seen", **average)
        observed.append(with_cost_of(each, matrix.factor(side)))
        each = line(fresh, layer.eigenbasis, factor, basis)
        turn = line("curvature", layer.turn_curvature, "curvature", fresh, basis, dim=DIMS[side])
        renewed += [
            with_cost_of(each, matrix.factor(side)),
            with_cost_of(turn, matrix.viewed),
            with_cost_of(line(basis, update.copy, fresh), matrix.factor(side)),
        ]
    return [
        *(replace(each, every=metric.sample_every) for each in observed),
        *(replace(each, every=metric.every) for each in renewed),
    ]


def _eigenvalues(metric: LayerEigenvalues, matrix: Matrix, turned: list[str]) -> list[Line]:
    each = line(
        "curvature",
        layer.average_curvature,
        *("curvature", metric.inputs, metric.outputs, "seen"),
        *(f"basis_{side}" for side in turned),
        rotated=("outputs" in turned, "inputs" in turned),
        beta=metric.memory.beta,
        unbiased=metric.memory.unbiased,
    )
    return [replace(with_cost_of(each, matrix.viewed), every=metric.sample_every)]
