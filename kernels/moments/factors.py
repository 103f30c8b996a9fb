r"""Factors K of S_i^-p = K K^T: a matrix (..., d, d), its diagonal (..., d), or its blocks.

The `kind` of a factor says how it is stored; all dims before it count blocks and weights.
"""

from collections.abc import Sequence
from functools import reduce
from math import prod
from operator import mul
from typing import Any

import torch
from torch import Tensor

from modula.kernels.moments.samples import entries
from modula.kernels.moments.second_moment import step_weight
from modula.kernels.moments.structure import Pattern
from modula.kernels.op import Cost, Op, Shape, elementwise_cost


def gain_of(size: Tensor, fresh: Tensor, seen: Tensor, beta: float) -> Tensor:
    """The number that makes the size of S an average over the samples, multiplied with S: (...)

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


def product_cost(
    shape: Shape, itemsize: int = 4, *, kind: Pattern, products: int = 1, **options: Any
) -> Cost:
    """Cost of so many products of two factors."""
    width = 1 if kind.ndim == 1 else shape[-1]
    return Cost(2.0 * products * prod(shape) * width, 3.0 * itemsize * products * prod(shape))


size_gain = Op("size_gain", size_gain_plain, elementwise_cost(2, 1))
square = Op("square", square_plain, product_cost)
