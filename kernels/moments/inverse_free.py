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

from modula.kernels.moments.factors import (
    gain_of,
    grown,
    mean_squares,
    product_cost,
    transposed_square,
)
from modula.kernels.moments.samples import over
from modula.kernels.moments.second_moment import moment as moment_along
from modula.kernels.moments.structure import DIAGONAL, Pattern
from modula.kernels.op import Cost, Op, Shape


def seen_moment_plain(white: Tensor, *, dim: int, ndim: int, share: float, kind: Pattern) -> Tensor:
    """U_i = share mat_i(X) mat_i(X)^T for X = G x_1 K_1^T ... x_k K_k^T, the entries K_i has."""
    return moment_along(white, kind, dim=dim, ndim=ndim, share=share)


def congruence_plain(moment: Tensor, root: Tensor, *, kind: Pattern) -> Tensor:
    """K^T M K for a moment M: (..., d, d), as much of it as K keeps.

    K may have ones among the dims before its own, which M has not.
    """
    part = kind.part_of(moment).reshape(root.shape)
    return root.square() * part if kind.ndim == 1 else root.mT @ part @ root


def crossed_plain(moment: Tensor, *others: Tensor, kinds: tuple[Pattern, ...]) -> Tensor:
    """U_i prod_j trace(U_j) / d_j     j: the other dims; kinds: of U_i and the others"""
    for other, kind in zip(others, kinds[1:], strict=True):
        moment = moment * over(kind.mean(other), moment)
    return moment


def log_gradient_plain(
    moment: Tensor, root: Tensor, *others: Tensor, damping: float, kinds: tuple[Pattern, ...]
) -> Tensor:
    """H_i = (U_i + damping prod_j mean eigenvalue(K_j K_j^T) K_i^T K_i - I) / 2

    K_i Exp(-rate H_i) moves S_i by rate (M_i - S_i) to first order, U_i = K_i^T M_i K_i.
    kinds  of K_i and the others
    """
    change, kind = moment / 2, kinds[0]
    if damping:
        own = transposed_square(root, kind)
        size = damping / 2 * mean_squares(others, kinds[1:], own)
        change = torch.addcmul(change, own, over(size, own))
    return kind.add_identity_(change, torch.full_like(kind.mean(change), -0.5))


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
    kind: Pattern,
) -> Tensor:
    """K (I - rate M / max(1, ||M||_F / limit)) / sqrt(gauge) where there was a sample.

    Where K is triangular, M is replaced by the triangular X with X + X^T = 2 M: K K^T moves by the
    same to first order.
    """
    # Clipped as a whole: in these coordinates lengths mean the same along every direction.
    length = torch.linalg.vector_norm(speed, dim=kind.dims)
    change = speed * over(-rate * fresh / (length / limit).clamp(min=1), speed)
    root = grown(root, kind.generator(change), kind)
    return root * over(gauge[0].rsqrt(), root) if gauge else root


def moments_gain_plain(
    fresh: Tensor,
    seen: Tensor,
    *moments_and_roots: Tensor,
    beta: float,
    damping: float,
    kinds: tuple[Pattern, ...],
) -> Tensor:
    """The gain for r = prod_i trace(U_i) / d_i + damping prod_i mean eigenvalue(K_i K_i^T): (...)

    kinds  of each moment, and of the root of the same place
    """
    moments, roots = moments_and_roots[: len(kinds)], moments_and_roots[len(kinds) :]
    size = reduce(mul, (kind.mean(x) for x, kind in zip(moments, kinds, strict=True)))
    size = size + damping * mean_squares(roots, kinds, size)
    return gain_of(size, fresh, seen, beta)


def _moment_cost(
    shape: Shape, itemsize: int = 4, *, dim: int, kind: Pattern, **options: Any
) -> Cost:
    width = kind.width(shape[dim])
    return Cost(2.0 * prod(shape) * width, 2.0 * itemsize * prod(shape))


def _products(products: int) -> Callable[..., Cost]:
    def cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
        kind = options.get("kind") or options.get("kinds", (DIAGONAL,))[0]
        return product_cost(shape, itemsize, kind=kind, products=products)

    return cost


seen_moment = Op("seen_moment", seen_moment_plain, _moment_cost)
congruence = Op("congruence", congruence_plain, _products(2))
crossed = Op("crossed", crossed_plain, _products(0))
log_gradient = Op("log_gradient", log_gradient_plain, _products(1))
group_momentum = Op("group_momentum", group_momentum_plain, _products(0))
group_step = Op("group_step", group_step_plain, _products(1))
moments_gain = Op("moments_gain", moments_gain_plain, _products(0))
