"""Arithmetic that stays right at every scale: no overflow, no small gradient lost, no 0 / 0."""

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

BISECTIONS = {torch.float32: 30, torch.float64: 60}  # halvings that leave a rounding error


def at_least_float32(x: Tensor) -> Tensor:
    """x itself, or in float32 if it has less precision than that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def flat(x: Tensor, ndim: int) -> Tensor:
    """(..., d1, ..., d_ndim) -> (..., d1 * ... * d_ndim)"""
    batch = x.ndim - ndim
    return x.reshape(*x.shape[:batch], prod(x.shape[batch:]))


def add_dims(x: Tensor, count: int) -> Tensor:
    """(...) -> (..., 1, ..., 1): one number for each weight, to be multiplied with its entries."""
    return x[(..., *(None,) * count)]


def largest(x: Tensor) -> Tensor:
    """The largest entry of the last dim of x >= 0, and 0 if that dim is empty."""
    return x.amax(-1) if x.shape[-1] else x.new_zeros(x.shape[:-1])


def nonzero(x: Tensor, ndim: int) -> Tensor:
    """Whether the last `ndim` dims of x, kept as ones, hold an entry that is not zero."""
    dims = tuple(range(-ndim, 0))
    return x != 0 if not ndim or not x.numel() else x.abs().amax(dims, keepdim=True) != 0


def ratio(x: Tensor, y: Tensor) -> Tensor:
    """x / y, and 0 where y is 0.  A NaN in either stays NaN."""
    return torch.where(y == 0, torch.zeros_like(x), x / y)


def split_scale(x: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """x = top * unit, where the largest |entry| of a weight in `unit` is 1 (0 for a zero weight).

    Squares of `unit` neither overflow nor vanish, whatever the scale of x.
    """
    top = largest(flat(x, ndim).abs())
    return ratio(x, add_dims(top, ndim).expand_as(x)), top


def l1_threshold(v: Tensor, radius: Tensor) -> Tensor:
    """The t >= 0 of which v - clip(v, -t, t) has an l1 norm of at most radius: 0 if v has one.

        t = max_k (|v|_(1) + ... + |v|_(k) - radius) / k      |v|_(k): the k-th largest

    v: (..., n), radius: (...).  Source: Duchi et al. 2008, doi:10.1145/1390156.1390191.
    """
    top = v.abs().sort(-1, descending=True).values.cumsum(-1) - radius.unsqueeze(-1)
    count = torch.arange(1, v.shape[-1] + 1, dtype=v.dtype, device=v.device)
    return largest((top / count).clamp(min=0))


def decreasing_root(f: Callable[[Tensor], Tensor], high: Tensor) -> Tensor:
    """The t in [0, high] where a decreasing f changes its sign; 0 if f(0) <= 0.

    The chord between the ends, moved a little and only so far towards the middle that never more
    steps than those of bisection are needed.  On a CPU it stops as soon as nothing is left to find:
    after 10 steps or so for a smooth f.
    Source: Oliveira and Takahashi 2020, doi:10.1145/3423597 (the ITP method).
    """
    steps, eps = BISECTIONS[high.dtype] + 1, 2 * torch.finfo(high.dtype).eps
    whole, low = high, torch.zeros_like(high)
    above, below = f(low), f(high)
    wanted = above > 0
    for k in range(steps):
        half = (high - low) / 2
        middle = low + half
        chord = low + 2 * half * torch.where(below <= 0, ratio(above, above - below), 0.5)
        finest = eps * torch.maximum(high, whole / 16)
        nudge = torch.maximum(0.8 * ratio(half.square(), whole), finest)
        way = (middle - chord).sign()
        t = torch.where(nudge < (middle - chord).abs(), chord + way * nudge, middle)
        spare = (whole * 2.0**-k - half).clamp(min=0)
        t = torch.where((t - middle).abs() <= spare, t, middle - way * spare).clamp(low, high)
        value = f(t)
        left = value > 0
        low, above = torch.where(left, t, low), torch.where(left, value, above)
        high, below = torch.where(left, high, t), torch.where(left, below, value)
        if high.device.type == "cpu" and not (wanted & (high - low > 2 * finest)).any():
            break
    return torch.where(wanted, (low + high) / 2, torch.zeros_like(low))
