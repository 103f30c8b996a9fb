"""Arithmetic that stays right at every scale: no overflow, no small gradient lost, no 0 / 0."""

from math import prod

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """x itself, or in float32 if it has less precision than that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def flat(x: Tensor, ndim: int) -> Tensor:
    """(..., d1, ..., d_ndim) -> (..., d1 * ... * d_ndim)"""
    batch = x.ndim - ndim
    return x.reshape(*x.shape[:batch], prod(x.shape[batch:]))


def largest(x: Tensor) -> Tensor:
    """The largest entry of the last dim of x >= 0, and 0 if that dim is empty."""
    return x.amax(-1) if x.shape[-1] else x.new_zeros(x.shape[:-1])


def ratio(x: Tensor, y: Tensor) -> Tensor:
    """x / y, and 0 where y is 0.  A NaN in either stays NaN."""
    return torch.where(y == 0, torch.zeros_like(x), x / y)


def split_scale(x: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """x = top * unit, where the largest |entry| of a weight in `unit` is 1 (0 for a zero weight).

    Squares of `unit` neither overflow nor vanish, whatever the scale of x.
    """
    top = largest(flat(x, ndim).abs())
    return ratio(x, top[(..., *(None,) * ndim)].expand_as(x)), top
