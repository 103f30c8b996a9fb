"""Rules for norms that split along the rows or columns that the manifold constrains one by one."""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from modula.duality.program.cost import cost_of_projections
from modula.duality.program.line import line
from modula.duality.rules.on_manifold import tangent_line
from modula.duality.rules.retraction import retraction
from modula.duality.rules.solvers.hyperplane import ROUNDS, least_bound, steepest
from modula.duality.setting.derive import Derived, Setting, derives
from modula.kernels.elementwise.length import normalise_columns, normalise_rows
from modula.kernels.op import Op, Shape, elementwise_cost
from modula.manifolds.oblique import Oblique
from modula.manifolds.sphere import Sphere
from modula.norms.base import Norm
from modula.norms.operator import Columns, Rows
from modula.norms.vector import L1, EuclideanLength, Max


def _rotation(vector: Norm, axis: str) -> Op:
    """The steepest unit tangent of each row's, or each column's, own sphere, as an op."""

    def of_rows(weight: Tensor, tangent: Tensor) -> Tensor:
        return steepest(vector, Sphere(), weight, tangent)

    def of_columns(weight: Tensor, tangent: Tensor) -> Tensor:
        return steepest(vector, Sphere(), weight.mT, tangent.mT).mT

    plain = of_rows if axis == "rows" else of_columns
    return Op(f"hyperplane[{vector}, {axis}]", plain, cost_of_projections(vector, ROUNDS + 2))


def _alone(axis: str) -> Op:
    """The row, or the column, that gains most, and zeros."""
    dim = -1 if axis == "rows" else -2

    def alone(direction: Tensor, tangent: Tensor) -> Tensor:
        gains = (tangent * direction).sum(dim, keepdim=True)
        first = gains.argmax(-3 - dim, keepdim=True)
        return torch.zeros_like(gains).scatter(-3 - dim, first, 1.0) * direction

    return Op(f"alone[{axis}]", alone, elementwise_cost(4, 4))


def vector_of(norm: Norm, axis: str) -> Norm | None:
    """The norm of each row, or of each column, of which the norm is the sum or the largest."""
    if isinstance(norm, L1 | Max) and norm.ndim == 2:
        return type(norm)()
    splits = isinstance(norm, Rows if axis == "rows" else Columns)
    return cast(Rows | Columns, norm).vector if splits else None


def separate_bound(vector: Norm, norm: Norm, axis: str, weight: Tensor, tangent: Tensor) -> Tensor:
    """An upper bound on <tangent, T> over all tangents T of norm one, tight to rounding."""
    w, g = (weight, tangent) if axis == "rows" else (weight.mT, tangent.mT)
    each = least_bound(vector, Sphere(), w, g)
    return each.amax(-1) if isinstance(norm, L1) else each.sum(-1)


def _separable(setting: Setting, shape: Shape) -> Derived:
    axis = cast(Oblique, setting.manifold).axis
    vector = cast(Norm, vector_of(setting.norm, axis))
    if isinstance(vector, EuclideanLength):
        op, size = (normalise_rows, shape[-1]) if axis == "rows" else (normalise_columns, shape[-2])
        direction, scale = line("direction", op, "tangent"), 1 / vector.factor(size)
    else:
        direction, scale = line("direction", _rotation(vector, axis), "weight", "tangent"), 1.0
    return Derived(
        (tangent_line(setting.manifold, shape), direction),
        scale=scale,
        after=retraction(setting.manifold, len(shape)),
    )


def _splits(setting: Setting, shape: Shape) -> bool:
    return vector_of(setting.norm, cast(Oblique, setting.manifold).axis) is not None


@derives(Rows, Oblique, when=_splits)
def oblique_rows(setting: Setting, shape: Shape) -> Derived:
    """Each row turns on its own sphere."""
    return _separable(setting, shape)


@derives(Columns, Oblique, when=_splits)
def oblique_columns(setting: Setting, shape: Shape) -> Derived:
    """Each column turns on its own sphere."""
    return _separable(setting, shape)


@derives(Max, Oblique, when=_splits)
def oblique_entries(setting: Setting, shape: Shape) -> Derived:
    """The largest entry is the largest of any row or column: each turns on its own sphere."""
    return _separable(setting, shape)


@derives(L1, Oblique, when=_splits)
def oblique_alone(setting: Setting, shape: Shape) -> Derived:
    """All of a sum goes where it gains most: one row or column turns on its own sphere."""
    turned = _separable(setting, shape)
    op = _alone(cast(Oblique, setting.manifold).axis)
    return replace(
        turned,
        lines=(*turned.lines, line("alone", op, turned.direction, "tangent")),
        direction="alone",
    )
