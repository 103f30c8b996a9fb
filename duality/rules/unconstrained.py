"""Rules for weights that may live anywhere: the direction is the norm's duality map."""

from dataclasses import replace
from functools import cache
from math import prod
from typing import cast

from torch import Tensor

from modula.duality.metrics.views import view_ops
from modula.duality.program.cost import cost_of_projections
from modula.duality.program.line import line
from modula.duality.setting.derive import Derived, Setting, derive, derives, may_approximate
from modula.duality.setting.potential import Clip, Sharp, ShortStep, Unit
from modula.kernels.elementwise.length import normalise, normalise_columns, normalise_rows
from modula.kernels.elementwise.update import sign
from modula.kernels.op import Op, Shape, elementwise_cost
from modula.kernels.spectral.polar import polar
from modula.manifolds.base import Manifold
from modula.manifolds.euclidean import Euclidean
from modula.norms.base import Blocks, Norm, Scaled
from modula.norms.operator import Columns, Rows
from modula.norms.spectral import Spectral
from modula.norms.vector import L2, EuclideanLength, Max


@cache
def duality_map_op(norm: Norm) -> Op:
    """The norm's own exact duality map, as an op."""
    return Op(f"duality_map[{norm}]", norm.duality_map, cost_of_projections(norm))


@derives(Norm)
def exact_duality_map(setting: Setting, shape: Shape) -> Derived:
    """Any norm: its own duality map, exact and unhurried."""
    return Derived((line("direction", duality_map_op(setting.norm), "query"),))


@derives(Spectral, when=may_approximate)
def muon(setting: Setting, shape: Shape) -> Derived:
    """Muon: the polar factor of the momentum.

    argmax <m, t> over ||t|| <= 1 is radius * U V^T for m = U S V^T; this one's singular values are
    off by what `polar.error` says.     Source: arXiv:2409.20325.
    """
    norm = cast(Spectral, setting.norm)
    return Derived((line("direction", polar, "query"),), scale=norm.unit_radius(shape))


@derives(Max)
def sign_descent(setting: Setting, shape: Shape) -> Derived:
    """Sign descent: every entry moves by the same amount."""
    return Derived((line("direction", sign, "query"),))


def trailing_size(norm: Norm, shape: Shape) -> int:
    """How many entries the norm measures together in a weight of this shape."""
    return prod(shape[len(shape) - norm.ndim :])


@derives(EuclideanLength)
def normalised_gradient(setting: Setting, shape: Shape) -> Derived:
    """Normalised gradient descent, lengths measured as declared."""
    norm = cast(EuclideanLength, setting.norm)
    return Derived(
        (line("direction", normalise, "query", ndim=norm.ndim),),
        scale=1 / norm.factor(trailing_size(norm, shape)),
    )


@derives(Rows)
def row_normalised(setting: Setting, shape: Shape) -> Derived:
    """Each row normalised on its own; a row without gradient does not move."""
    vector = cast(Rows, setting.norm).vector
    if not isinstance(vector, EuclideanLength):
        return exact_duality_map(setting, shape)
    scale = 1 / vector.factor(shape[-1])
    return Derived((line("direction", normalise_rows, "query"),), scale=scale)


@derives(Columns)
def column_normalised(setting: Setting, shape: Shape) -> Derived:
    """Each column normalised on its own."""
    vector = cast(Columns, setting.norm).vector
    if not isinstance(vector, EuclideanLength):
        return exact_duality_map(setting, shape)
    scale = 1 / vector.factor(shape[-2])
    return Derived((line("direction", normalise_columns, "query"),), scale=scale)


@derives(Scaled, Manifold)
def scaled(setting: Setting, shape: Shape) -> Derived:
    """c * norm: the same direction, c times shorter, on whatever manifold."""
    norm = cast(Scaled, setting.norm)
    inner = derive(replace(setting, norm=norm.norm), shape)
    return replace(inner, scale=inner.scale / norm.factor)


@derives(Blocks)
def blockwise(setting: Setting, shape: Shape) -> Derived:
    """Each block on its own: the dual of the largest norm over blocks."""
    norm = cast(Blocks, setting.norm)
    view, view_back = view_ops(norm.view, tuple(shape))
    block = norm.block_shape(tuple(shape))
    blocks = (prod(shape) // prod(block), *block)
    inner = derive(Setting(norm.norm, accuracy=setting.accuracy), block)
    names = {"query": "blocks", "direction": "block_directions"}
    return Derived(
        (
            line("blocks", view, "query"),
            *(replace(each.renamed(names), shape=blocks) for each in inner.lines),
            line("direction", view_back, names.get(inner.direction, inner.direction)),
        ),
        scale=inner.scale,
    )


@derives(L2, Euclidean, potential=Sharp)
def gradient_descent(setting: Setting, shape: Shape) -> Derived:
    """Gradient descent: ||g|| times g / ||g|| is g."""
    return Derived((), direction="query")


@derives(Norm, Manifold, potential=Sharp)
def dual_norm_scaled(setting: Setting, shape: Shape) -> Derived:
    """The unit direction, times what it gains: the dual norm of the momentum's tangent part."""
    unit = derive(replace(setting, potential=Unit()), shape)
    return replace(
        unit,
        lines=(*unit.lines, line("steepest", _stretch(len(shape)), "query", unit.direction)),
        scale=unit.scale**2,
        direction="steepest",
    )


@derives(Norm, Euclidean, potential=ShortStep)
@derives(Norm, Manifold, potential=Clip)
def clipped(setting: Setting, shape: Shape) -> Derived:
    """The unit direction; its length is one number for the whole network, found while running."""
    return derive(replace(setting, potential=Unit()), shape)


@cache
def _stretch(ndim: int) -> Op:
    dims = tuple(range(-ndim, 0))

    def stretch(query: Tensor, direction: Tensor) -> Tensor:
        """<query, direction> direction"""
        return (query * direction).sum(dims, keepdim=True) * direction

    return Op("stretch", stretch, elementwise_cost(3, 4))
