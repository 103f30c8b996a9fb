r"""Factors K of S_i^-p = K K^T: a matrix (..., d, d), or the entries (..., d) of a diagonal one.

Whether a factor is a matrix is said by `dense`; all dims before it count blocks and weights.
"""

from collections.abc import Sequence
from functools import reduce
from math import prod
from operator import mul
from typing import Any

import torch
from torch import Tensor

from modula.kernels.op import Cost, Op, Shape, elementwise_cost
from modula.kernels.second_moment import (
    diagonal_moment,
    entries,
    excess,
    gram,
    moment,
    step_weight,
)


def fresh_plain(sample: Tensor, seen: Tensor) -> Tensor:
    """1 where the sample is not exactly zero, else 0: (...), the shape of the count `seen`."""
    return entries(sample != 0, seen).any(-1).to(seen.dtype)


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
    dense: tuple[bool, ...] = (),
) -> Tensor:
    """The gain for r = share mean(W^2) + damping prod_i mean eigenvalue(K_i K_i^T): (...)

    W is the sample seen through S.
    """
    size = share * entries(white, seen).square().mean(-1)
    if damping:
        size = size + damping * mean_squares(roots, dense, size)
    return gain_of(size, fresh, seen, beta)


def over(x: Tensor, factor: Tensor) -> Tensor:
    """x: (...) with as many dims behind it as multiply a factor."""
    return x[(..., *(None,) * (factor.ndim - x.ndim))]


def grown(factor: Tensor, change: Tensor, dense: bool) -> Tensor:
    """factor (I + change), in one pass over the result."""
    if not dense:
        return factor + factor * change
    flat = factor.reshape(-1, *factor.shape[-2:])
    return torch.baddbmm(flat, flat, change.reshape(flat.shape)).reshape(factor.shape)


def add_identity(x: Tensor, size: Tensor, dense: bool) -> Tensor:
    """x + size I, for x of this function's own making: written into it."""
    (x.diagonal(dim1=-2, dim2=-1) if dense else x).add_(size[..., None])
    return x


def mean_square(factor: Tensor, dense: bool) -> Tensor:
    """The mean eigenvalue of K K^T: (...)"""
    squares = factor.square()
    return squares.sum((-2, -1)) / factor.shape[-1] if dense else squares.mean(-1)


def mean_squares(factors: Sequence[Tensor], dense: Sequence[bool], like: Tensor) -> Tensor:
    """The product of those of several factors; 1 of none, on the device of `like`."""
    sizes = (mean_square(f, d) for f, d in zip(factors, dense, strict=True))
    return reduce(mul, sizes, like.new_ones(()))


def white_moment(white: Tensor, dense: bool, *, dim: int, ndim: int, share: float) -> Tensor:
    """share * mat_i(W) mat_i(W)^T, or its diagonal: the moment of a whitened gradient."""
    return (moment if dense else diagonal_moment)(white, dim, ndim, share)


def square_plain(factor: Tensor, *, dense: bool) -> Tensor:
    """K K^T"""
    return gram(factor) if dense else factor.square()


def factor_gauge_plain(factor: Tensor, *others: Tensor, dense: tuple[bool, ...]) -> Tensor:
    """By how much the mean eigenvalue of K K^T exceeds the geometric mean of all factors': (...)

    Dividing each K by the root of it changes no product of K K^T over the dims of a weight.
    dense  for each factor whether it is a matrix
    """
    return excess([mean_square(f, d) for f, d in zip((factor, *others), dense, strict=True)])


def product_cost(
    shape: Shape, itemsize: int = 4, *, dense: bool, products: int = 1, **options: Any
) -> Cost:
    """Of so many products of two factors."""
    width = shape[-1] if dense else 1
    return Cost(2.0 * products * prod(shape) * width, 3.0 * itemsize * products * prod(shape))


fresh = Op("fresh", fresh_plain, elementwise_cost(1, 1))
size_gain = Op("size_gain", size_gain_plain, elementwise_cost(2, 1))
square = Op("square", square_plain, product_cost)
factor_gauge = Op("factor_gauge", factor_gauge_plain, elementwise_cost(2, 1))
