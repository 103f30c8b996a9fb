"""Nominal cost of exact projections, duality maps and tangent parts, as by LAPACK.

    SVD with thin factors, and the product that puts them together again:  8 m n^2 + 20 n^3,  m >= n
    eigendecomposition of a symmetric matrix:  9 n^3

What needs neither is counted as some operations an entry.  An accelerator computes spectral
projections by products instead, for which see modula.duality.rules.solvers.projections.

Source: Golub and Van Loan 2013, Matrix Computations, sections 8.6.3 and 8.3.5.
"""

from collections.abc import Callable
from functools import singledispatch
from math import prod
from typing import Any

from modula.kernels.op import Cost, Shape, elementwise_cost
from modula.manifolds.base import Manifold
from modula.manifolds.isospectral import Isospectral
from modula.manifolds.norm_ball import NormBall
from modula.manifolds.spectral_ball import SingularValuesBetween
from modula.manifolds.spectral_sphere import SpectralSphere
from modula.manifolds.stiefel import Stiefel
from modula.manifolds.transposed import Transposed
from modula.manifolds.unit_condition_number import UnitConditionNumber
from modula.norms.base import Blocks, Norm, Scaled
from modula.norms.over_blocks import OverBlocks
from modula.norms.singular_values import SingularValueNorm
from modula.norms.spectral import Nuclear, Spectral

OPERATIONS, PASSES = 16.0, 8  # an entry


def _matrix(shape: Shape, itemsize: int, tall: float, square: float) -> Cost:
    """tall m n^2 + square n^3 operations on m x n matrices, m >= n."""
    short, long = sorted(shape[-2:])
    flops = prod(shape[:-2]) * short**2 * (tall * long + square * short)
    return Cost(flops, PASSES * itemsize * prod(shape))


@singledispatch
def of_projection(target: Any, shape: Shape, itemsize: int) -> Cost:
    """Cost of one projection on a manifold or a norm's ball, or of one duality map."""
    return elementwise_cost(OPERATIONS, PASSES)(shape, itemsize)


@of_projection.register(Spectral)
@of_projection.register(Nuclear)
@of_projection.register(SingularValueNorm)
@of_projection.register(Stiefel)
@of_projection.register(UnitConditionNumber)
@of_projection.register(SpectralSphere)
@of_projection.register(Isospectral)
@of_projection.register(SingularValuesBetween)
def _(target: Any, shape: Shape, itemsize: int) -> Cost:
    return _matrix(shape, itemsize, tall=8, square=20)


@of_projection.register(Scaled)
@of_projection.register(NormBall)
def _(target: Scaled | NormBall, shape: Shape, itemsize: int) -> Cost:
    return of_projection(target.norm, shape, itemsize)


@of_projection.register
def _(target: Blocks, shape: Shape, itemsize: int) -> Cost:
    block = target.block_shape(tuple(shape))
    return of_projection(target.norm, (prod(shape) // prod(block), *block), itemsize)


@of_projection.register
def _(target: OverBlocks, shape: Shape, itemsize: int) -> Cost:
    return of_projection(target.blocks, shape, itemsize)


@of_projection.register
def _(target: Transposed, shape: Shape, itemsize: int) -> Cost:
    return of_projection(target.manifold, shape, itemsize)


@singledispatch
def of_tangents(manifold: Manifold, shape: Shape, itemsize: int, vectors: int = 1) -> Cost:
    """Cost of the tangent parts of so many vectors at one weight."""
    return _times(vectors, elementwise_cost(6, 6)(shape, itemsize))


@of_tangents.register(Stiefel)
@of_tangents.register(UnitConditionNumber)
def _(manifold: Manifold, shape: Shape, itemsize: int, vectors: int = 1) -> Cost:
    return _times(vectors, _matrix(shape, itemsize, tall=4, square=0))


@of_tangents.register
def _(manifold: SpectralSphere, shape: Shape, itemsize: int, vectors: int = 1) -> Cost:
    each = elementwise_cost(6, 6)(shape, itemsize)
    return of_projection(manifold, shape, itemsize) + _times(vectors, each)


@of_tangents.register
def _(manifold: Isospectral, shape: Shape, itemsize: int, vectors: int = 1) -> Cost:
    each = _matrix(shape, itemsize, tall=12, square=2)
    return of_projection(manifold, shape, itemsize) + _times(vectors, each)


@of_tangents.register
def _(manifold: SingularValuesBetween, shape: Shape, itemsize: int, vectors: int = 1) -> Cost:
    each = _matrix(shape, itemsize, tall=6, square=2 + 9 + 2)
    return of_projection(manifold, shape, itemsize) + _times(vectors, each)


@of_tangents.register
def _(manifold: NormBall, shape: Shape, itemsize: int, vectors: int = 1) -> Cost:
    return _times(1 + 2 * vectors, of_projection(manifold.norm, shape, itemsize))


@of_tangents.register
def _(manifold: Transposed, shape: Shape, itemsize: int, vectors: int = 1) -> Cost:
    return of_tangents(manifold.manifold, shape, itemsize, vectors)


def cost_of_projections(target: Norm | Manifold, count: int = 1) -> Callable[..., Cost]:
    """Cost function of an op that does so many projections or duality maps."""

    def cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
        return _times(count, of_projection(target, shape, itemsize))

    return cost


def cost_of_tangents(manifold: Manifold, count: int = 1) -> Callable[..., Cost]:
    """Cost function of an op that makes so many vectors tangent."""

    def cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
        return of_tangents(manifold, shape, itemsize, count)

    return cost


def cost_of_rounds(norm: Norm, manifold: Manifold, rounds: int) -> Callable[..., Cost]:
    """Cost function of an op that runs so many rounds of the general solver."""
    maps, tangents = cost_of_projections(norm, rounds), cost_of_tangents(manifold, rounds)
    return lambda *args, **options: maps(*args, **options) + tangents(*args, **options)


def _times(count: int, cost: Cost) -> Cost:
    return Cost(count * cost.flops, count * cost.bytes)
