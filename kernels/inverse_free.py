r"""Natural-gradient steps on factors K_i of S^-1 = (K_1 K_1^T) x ... x (K_k K_k^T).

They are taken in normal coordinates at K, in which the Fisher matrix of the Gaussian N(0, S) is a
multiple of the identity: there momentum and a clipped norm are Euclidean operations.
Source: Lin et al. 2024, arXiv:2312.05705 and arXiv:2402.03496.
"""

from collections.abc import Callable
from functools import reduce
from math import prod
from operator import mul
from typing import Any

import torch
from torch import Tensor

from modula.kernels.factors import (
    add_identity,
    gain_of,
    grown,
    mean_squares,
    over,
    product_cost,
    square_plain,
    white_moment,
)
from modula.kernels.op import Cost, Op, Shape


def seen_moment_plain(white: Tensor, *, dim: int, ndim: int, share: float, dense: bool) -> Tensor:
    """U_i = share mat_i(X) mat_i(X)^T for X = G x_1 K_1^T ... x_k K_k^T, or its diagonal."""
    return white_moment(white, dense, dim=dim, ndim=ndim, share=share)


def congruence_plain(moment: Tensor, root: Tensor, *, dense: bool) -> Tensor:
    """K^T M K for a moment M: (..., d, d), or its diagonal where K is diagonal.

    K may have ones among the dims before its own, which M has not.
    """
    if dense:
        return root.mT @ moment.reshape(root.shape) @ root
    return root.square() * moment.diagonal(dim1=-2, dim2=-1).reshape(root.shape)


def crossed_plain(moment: Tensor, *others: Tensor, dense: tuple[bool, ...]) -> Tensor:
    """U_i prod_j trace(U_j) / d_j     j: the other dims; dense: of U_i and the others"""
    for other, is_dense in zip(others, dense[1:], strict=True):
        diagonal = other.diagonal(dim1=-2, dim2=-1) if is_dense else other
        moment = moment * over(diagonal.mean(-1), moment)
    return moment


def log_gradient_plain(
    moment: Tensor, root: Tensor, *others: Tensor, damping: float, dense: tuple[bool, ...]
) -> Tensor:
    """H_i = (U_i + damping prod_j mean eigenvalue(K_j K_j^T) K_i^T K_i - I) / 2

    K_i Exp(-rate H_i) moves S_i by rate (M_i - S_i) to first order, U_i = K_i^T M_i K_i.
    dense  for K_i and the others whether they are matrices
    """
    change = moment / 2
    counted = change[..., 0, 0] if dense[0] else change[..., 0]
    if damping:
        own = square_plain(root.mT if dense[0] else root, dense=dense[0])
        size = damping / 2 * mean_squares(others, dense[1:], own)
        change = torch.addcmul(change, own, over(size, own))
    return add_identity(change, torch.full_like(counted, -0.5), dense[0])


def group_momentum_plain(speed: Tensor, change: Tensor, fresh: Tensor, *, beta: float) -> Tensor:
    """beta speed + (1 - beta) change where there was a sample."""
    return torch.lerp(speed, change, over((1 - beta) * fresh, change))


def group_step_plain(
    root: Tensor,
    speed: Tensor,
    fresh: Tensor,
    *gauge: Tensor,
    rate: float,
    limit: float,
    dense: bool,
) -> Tensor:
    """K (I - rate M / max(1, ||M||_F / limit)) / sqrt(gauge) where there was a sample."""
    length = torch.linalg.vector_norm(speed, dim=(-2, -1) if dense else -1)
    change = speed * over(-rate * fresh / (length / limit).clamp(min=1), speed)
    root = grown(root, change, dense)
    return root * over(gauge[0].rsqrt(), root) if gauge else root


def moments_gain_plain(
    fresh: Tensor,
    seen: Tensor,
    *moments_and_roots: Tensor,
    beta: float,
    damping: float,
    dense: tuple[bool, ...],
) -> Tensor:
    """The gain for r = prod_i trace(U_i) / d_i + damping prod_i mean eigenvalue(K_i K_i^T): (...)

    dense  of each moment, and of the root of the same place
    """
    moments = moments_and_roots[: len(dense)]
    diagonals = (
        x.diagonal(dim1=-2, dim2=-1) if is_dense else x
        for x, is_dense in zip(moments, dense, strict=True)
    )
    size = reduce(mul, (x.mean(-1) for x in diagonals))
    size = size + damping * mean_squares(moments_and_roots[len(dense) :], dense, size)
    return gain_of(size, fresh, seen, beta)


def _moment_cost(shape: Shape, itemsize: int = 4, *, dim: int, dense: bool, **options: Any) -> Cost:
    size = shape[dim] if dense else 1
    return Cost(2.0 * prod(shape) * size, 2.0 * itemsize * prod(shape))


def _products(products: int) -> Callable[..., Cost]:
    def cost(
        shape: Shape, itemsize: int = 4, *, dense: bool | tuple[bool, ...] = False, **options: Any
    ) -> Cost:
        matrix = dense if isinstance(dense, bool) else dense[0]
        return product_cost(shape, itemsize, dense=matrix, products=products)

    return cost


seen_moment = Op("seen_moment", seen_moment_plain, _moment_cost)
congruence = Op("congruence", congruence_plain, _products(2))
crossed = Op("crossed", crossed_plain, _products(0))
log_gradient = Op("log_gradient", log_gradient_plain, _products(1))
group_momentum = Op("group_momentum", group_momentum_plain, _products(0))
group_step = Op("group_step", group_step_plain, _products(1))
moments_gain = Op("moments_gain", moments_gain_plain, _products(0))
