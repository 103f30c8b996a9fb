"""How metrics of a layer's data are kept: averaged moments, cached roots, a turned diagonal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

from torch import Tensor

from modula.duality.coordinates import Applied, Coordinates, coordinates, describe, with_cost_of
from modula.duality.kronecker import InverseAlong
from modula.duality.program import Line, Slot, line
from modula.kernels import layer, root
from modula.kernels.op import Cost, Op, Shape, elementwise_cost
from modula.kernels.second_moment import mean_eigenvalue
from modula.kernels.structure import FULL
from modula.norms.base import Blocks
from modula.norms.coordinates import Elementwise, LinearMap, Rotation
from modula.norms.layer import Damping, LayerEigenvalues, LayerMoments
from modula.norms.metric import Memory
from modula.norms.vector import L2

FEW_BLOCKS = 8  # a weight up to this many times longer than wide is cut into square blocks
DIMS = {"outputs": -2, "inputs": -1}


@dataclass(frozen=True)
class Matrix:
    """A layer's weight seen as a matrix (outputs, inputs), perhaps cut into blocks.

    shape         of the weight: (out, in, taps...), or (in, out) if `inputs_first`
    cut           the sides that are cut: into square blocks if a side is a small multiple of the
                  other and `square`, and where it is wider than max_dim, as far as channels allow
    """

    shape: tuple[int, ...]
    inputs_first: bool = False
    cut: tuple[str, ...] = ()
    square: bool = False
    max_dim: int = 0

    def __post_init__(self) -> None:
        if len(self.shape) < 2 or (self.inputs_first and len(self.shape) != 2):
            raise ValueError(
                f"a metric of a layer's inputs and outputs needs a weight (out, in, ...), or a "
                f"matrix (in, out); got {self.shape}: declare a metric of gradients instead"
            )

    @property
    def sizes(self) -> dict[str, int]:
        """How many outputs and inputs there are."""
        first, *rest = self.shape
        ends = (rest[0], first) if self.inputs_first else (first, prod(rest))
        return dict(zip(DIMS, ends, strict=True))

    @cached_property
    def counts(self) -> dict[str, int]:
        """Into how many blocks each side is cut; taps stay together."""
        cuttable = {**self.sizes, "inputs": self.shape[0 if self.inputs_first else 1]}
        return {side: self._count(side, cuttable[side]) if side in self.cut else 1 for side in DIMS}

    def _count(self, side: str, channels: int) -> int:
        size, other = self.sizes[side], prod(self.sizes.values()) // self.sizes[side]
        ways = [n for n in range(1, channels + 1) if channels % n == 0]
        fitting = [n for n in ways if size // n <= self.max_dim] or [channels]
        squares = [n for n in fitting if n <= FEW_BLOCKS and size == n * other and other > 1]
        return squares[0] if squares and self.square else fitting[0]

    @property
    def block(self) -> dict[str, int]:
        """Outputs and inputs of one block."""
        return {side: size // self.counts[side] for side, size in self.sizes.items()}

    @property
    def is_cut(self) -> bool:
        return prod(self.counts.values()) > 1

    @property
    def view(self) -> Blocks | None:
        """(out blocks, in blocks, out, in), or (out, in) where nothing is cut."""
        if not self.is_cut and len(self.shape) == 2 and not self.inputs_first:
            return None
        taps = [f"k{i}" for i in range(len(self.shape) - 2)]
        heads = ["a", "b"] if self.is_cut else []
        out, channels = ("(a o)", "(b i)") if self.is_cut else ("o", "i")
        left = [channels, out] if self.inputs_first else [out, channels, *taps]
        inputs = f"(i {' '.join(taps)})" if taps else "i"
        pattern = f"{' '.join(left)} -> {' '.join([*heads, 'o', inputs])}"
        sizes = (("a", self.counts["outputs"]), ("b", self.counts["inputs"]))
        return Blocks(L2(2), pattern, sizes if self.is_cut else ())

    @property
    def viewed(self) -> tuple[int, ...]:
        """The shape in that view."""
        heads = tuple(self.counts.values()) if self.is_cut else ()
        return (*heads, *self.block.values())

    def blocks_of(self, side: str) -> tuple[int, ...]:
        """The dims of a side's factor that count blocks: (), (a, 1) or (1, b)."""
        if not self.is_cut:
            return ()
        return tuple(count if each == side else 1 for each, count in self.counts.items())

    def factor(self, side: str) -> tuple[int, ...]:
        """The shape of a side's factor."""
        return (*self.blocks_of(side), self.block[side], self.block[side])


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
    return root.inverse_root_plain(factor, previous, power=power, damping=share)


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
    lines = [
        each
        for side, read in metric.sides.items()
        for each in _observed(metric, matrix, side, read)
    ]
    lines += [_renewed(metric, matrix, side, power) for side in metric.sides]
    return Coordinates(
        before=tuple(lines) if metric.instant else (),
        core=tuple(
            Applied(InverseAlong(DIMS[side], 2, FULL), (f"root_{side}",), matrix.viewed)
            for side in metric.sides
        ),
        after=() if metric.instant else tuple(lines),
        slots=tuple(
            slot for side in metric.sides for slot in _slots(metric.memory, matrix, side, power)
        ),
        view=matrix.view,
    )


def _observed(metric: LayerMoments, matrix: Matrix, side: str, read: str) -> list[Line]:
    average: dict[str, Any] = {"beta": metric.memory.beta, "unbiased": metric.memory.unbiased}
    if matrix.is_cut:
        average = {"counts": matrix.blocks_of(side), **average}
    factor, seen, rejected = (f"{name}_{side}" for name in ("factor", "seen", "rejected"))
    lines = (
        line(seen, layer.tally_moment, seen, read),
        with_cost_of(
            line(factor, layer.average_blocks, factor, read, seen, **average), matrix.factor(side)
        ),
        line(rejected, layer.rejected_moment, rejected, read),
    )
    return [replace(each, every=metric.sample_every) for each in lines]


def _renewed(metric: LayerMoments, matrix: Matrix, side: str, power: float) -> Line:
    others = [f"factor_{each}" for each in metric.sides if each != side]
    options: dict[str, Any] = {"power": power, "damping": metric.damping}
    if matrix.is_cut:
        options["blocks"] = len(matrix.blocks_of(side))
    reads = (f"factor_{side}", f"root_{side}", *others)
    each = with_cost_of(line(f"root_{side}", damped_root, *reads, **options), matrix.factor(side))
    return replace(each, every=metric.every)


def _slots(memory: Memory, matrix: Matrix, side: str, power: float) -> list[tuple[str, Slot]]:
    shape, first = matrix.factor(side), memory.first
    return [
        (f"factor_{side}", Slot(shape, diagonal=first)),
        (f"root_{side}", Slot(shape, diagonal=first**-power if first else 1.0)),
        (f"seen_{side}", Slot(())),
        (f"rejected_{side}", Slot(())),
    ]


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
            line(basis, layer.keep, fresh, basis),
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
