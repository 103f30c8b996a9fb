"""Elementwise ops of weight decay, in its several places."""

import torch
from torch import Tensor

from modula.kernels.op import elementwise

Tensors = list[Tensor]


def decay_plain(weight: Tensor, lr: Tensor, *, rate: float, scale: float = 1.0) -> Tensor:
    """(1 - lr scale rate) weight"""
    return weight * (1 - lr * (scale * rate))


def decay_foreach_(weights: Tensors, lr: Tensor, *, rate: float, scale: list[float]) -> Tensors:
    """decay_plain over lists; overwrites the weights."""
    for weight, s in zip(weights, scale, strict=True):
        weight.mul_(1 - lr * (s * rate))
    return weights


def add_decay_plain(x: Tensor, weight: Tensor, *, rate: float, scale: float = 1.0) -> Tensor:
    """x + scale rate weight"""
    return x + (scale * rate) * weight


def add_decay_foreach(xs: Tensors, weights: Tensors, *, rate: float, scale: list[float]) -> Tensors:
    """add_decay_plain over lists."""
    return [x + (s * rate) * w for x, w, s in zip(xs, weights, scale, strict=True)]


def cautious_decay_plain(
    weight: Tensor, direction: Tensor, lr: Tensor, *, rate: float, scale: float = 1.0
) -> Tensor:
    """(1 - lr scale rate) weight where weight * direction > 0, weight elsewhere.

    There the step shortens the weight anyway.  Where either is zero nothing decays, so that an
    entry without gradient stays.
    """
    return weight.where(weight * direction <= 0, weight * (1 - lr * (scale * rate)))


def cautious_decay_foreach_(
    weights: Tensors, directions: Tensors, lr: Tensor, *, rate: float, scale: list[float]
) -> Tensors:
    """cautious_decay_plain over lists; overwrites the weights."""
    for weight, direction, s in zip(weights, directions, scale, strict=True):
        weight.copy_(cautious_decay_plain(weight, direction, lr, rate=rate, scale=s))
    return weights


def scheduled_decay_plain(
    weight: Tensor, lr: Tensor, mean_square: Tensor, *, rate: float, scale: float = 1.0
) -> Tensor:
    """(1 - share) weight with share = min(1, lr scale rate / sqrt(mean_square)); 0 for a mean of 0.

    lr, mean_square: 0-d
    """
    share = lr * (scale * rate) / mean_square.sqrt()
    return weight * (1 - torch.where(mean_square > 0, share, 0.0).clamp(max=1.0))


def scheduled_decay_foreach_(
    weights: Tensors, lr: Tensor, mean_square: Tensor, *, rate: float, scale: list[float]
) -> Tensors:
    """scheduled_decay_plain over lists; overwrites the weights."""
    for weight, s in zip(weights, scale, strict=True):
        weight.copy_(scheduled_decay_plain(weight, lr, mean_square, rate=rate, scale=s))
    return weights


decay = elementwise("decay", decay_plain, decay_foreach_, flops=1, passes=2, writes_first=True)
add_decay = elementwise("add_decay", add_decay_plain, add_decay_foreach, flops=2, passes=3)
cautious_decay = elementwise(
    "cautious_decay",
    cautious_decay_plain,
    cautious_decay_foreach_,
    flops=3,
    passes=3,
    writes_first=True,
)
scheduled_decay = elementwise(
    "scheduled_decay",
    scheduled_decay_plain,
    scheduled_decay_foreach_,
    flops=1,
    passes=2,
    writes_first=True,
)
