r"""Factors K of S_i^-p = K K^T: a matrix (..., d, d), its diagonal (..., d), or its blocks.

What is kept of the matrix is said by its `kind`; all dims before it count blocks and weights.
"""

from collections.abc import Sequence
from functools import reduce
from math import prod
from operator import and_, mul
from typing import Any

import torch
from torch import Tensor

from modula.kernels.moments.layer import is_moment
from modula.kernels.moments.second_moment import entries, excess, step_weight
from modula.kernels.moments.structure import Pattern
from modula.kernels.op import Cost, Op, Shape, elementwise_cost


def fresh_plain(sample: Tensor, seen: Tensor) -> Tensor:
    """1 where the sample is not exactly zero, else 0: (...), the shape of the count `seen`."""
    return entries(sample != 0, seen).any(-1).to(seen.dtype)


def usable_plain(sample: Tensor, seen: Tensor) -> Tensor:
    """The sample, or zero, which is none, where its mean square is not finite."""
    return sample.where(over(_is_finite(sample, seen), sample), 0.0)


def usable_moment_plain(moment: Tensor, seen: Tensor, *others: Tensor) -> Tensor:
    """The moment, or zero, where it or another one is not finite or has a negative entry of its
    diagonal.
    """
    usable = reduce(and_, (is_moment(each, seen) for each in (moment, *others)))
    return moment.where(over(usable, moment), 0.0)


def rejected_plain(count: Tensor, sample: Tensor) -> Tensor:
    """count + 1 where the sample is not usable."""
    return count + ~_is_finite(sample, count)


def rejected_moments_plain(count: Tensor, *moments: Tensor) -> Tensor:
    """count + 1 where one of the moments is not usable."""
    return count + ~reduce(and_, (is_moment(each, count) for each in moments))


def _is_finite(sample: Tensor, seen: Tensor) -> Tensor:
    return entries(sample, seen).square().mean(-1).isfinite()


def gain_of(size: Tensor, fresh: Tensor, seen: Tensor, beta: float) -> Tensor:
    """By which number S is to be multiplied for its size to be an average over the samples: (...)

        q = 1 - w + w r

    r: `size`, of a sample seen through S, 1 on average where S has the right size.  w: the weight
    of the newest of `seen` samples, so that the first one gives S its size; where beta is 1, that
    is all.  Factors that follow by bounded steps would take long for what one number can tell.
    """
    first = (seen == 1).to(seen.dtype)
    weight = step_weight(seen, beta, unbiased=True) if beta < 1 else first
    gain = (1 - weight) + weight * size  # this way round a size far below one keeps its digits
    return torch.where((fresh > 0) & (gain > 0), gain, 1.0)


def size_gain_plain(
    white: Tensor,
    fresh: Tensor,
    seen: Tensor,
    *roots: Tensor,
    beta: float,
    share: float = 1.0,
    damping: float = 0.0,
    kinds: tuple[Pattern, ...] = (),
) -> Tensor:
    """The gain for r = share mean(W^2) + damping prod_i mean eigenvalue(K_i K_i^T): (...)

    W is the sample seen through S.
    """
    size = share * entries(white, seen).square().mean(-1)
    if damping:
        size = size + damping * mean_squares(roots, kinds, size)
    return gain_of(size, fresh, seen, beta)


def over(x: Tensor, factor: Tensor) -> Tensor:
    """x: (...) with as many dims behind it as multiply a factor."""
    return x[(..., *(None,) * (factor.ndim - x.ndim))]


def grown(factor: Tensor, change: Tensor, kind: Pattern) -> Tensor:
    """factor (I + change), in one pass over the result."""
    if kind.ndim == 1:
        return factor + factor * change
    flat = factor.reshape(-1, *factor.shape[-2:])
    return torch.baddbmm(flat, flat, change.reshape(flat.shape)).reshape(factor.shape)


def mean_squares(factors: Sequence[Tensor], kinds: Sequence[Pattern], like: Tensor) -> Tensor:
    """The product of the mean eigenvalues of K K^T; 1 of none, on the device of `like`."""
    sizes = (kind.mean_square(f) for f, kind in zip(factors, kinds, strict=True))
    return reduce(mul, sizes, like.new_ones(()))


def square_plain(factor: Tensor, *, kind: Pattern) -> Tensor:
    """K K^T"""
    if kind.ndim == 2:
        return kind.gram(factor)
    return factor.square() if kind.ndim == 1 else factor @ factor.mT


def transposed_square(factor: Tensor, kind: Pattern) -> Tensor:
    """K^T K"""
    return square_plain(factor if kind.ndim == 1 else factor.mT, kind=kind)


def factor_gauge_plain(factor: Tensor, *others: Tensor, kinds: tuple[Pattern, ...]) -> Tensor:
    """By how much the mean eigenvalue of K K^T exceeds the geometric mean of all factors': (...)

    Dividing each K by the root of it changes no product of K K^T over the dims of a weight.
    """
    return excess([kind.mean_square(f) for f, kind in zip((factor, *others), kinds, strict=True)])


def product_cost(
    shape: Shape, itemsize: int = 4, *, kind: Pattern, products: int = 1, **options: Any
) -> Cost:
    """Of so many products of two factors."""
    width = 1 if kind.ndim == 1 else shape[-1]
    return Cost(2.0 * products * prod(shape) * width, 3.0 * itemsize * products * prod(shape))


fresh = Op("fresh", fresh_plain, elementwise_cost(1, 1))
usable = Op("usable", usable_plain, elementwise_cost(2, 3))
usable_moment = Op("usable_moment", usable_moment_plain, elementwise_cost(1, 4))
rejected = Op("rejected", rejected_plain, elementwise_cost(2, 1))
rejected_moments = Op("rejected", rejected_moments_plain, elementwise_cost(1, 2))
size_gain = Op("size_gain", size_gain_plain, elementwise_cost(2, 1))
square = Op("square", square_plain, product_cost)
factor_gauge = Op("factor_gauge", factor_gauge_plain, elementwise_cost(2, 1))
