"""Elementwise ops of an update: step along a direction, sign, copy, count."""

import torch
from torch import Tensor

from modula.kernels.op import elementwise

Tensors = list[Tensor]


def count_plain(steps: Tensor) -> Tensor:
    """steps + 1"""
    return steps + 1


def count_foreach_(steps: Tensors) -> Tensors:
    """count_plain over lists; overwrites the counters."""
    torch._foreach_add_(steps, 1)
    return steps


def copy_plain(x: Tensor) -> Tensor:
    """A copy of x."""
    return x.clone()


def copy_foreach(xs: Tensors) -> Tensors:
    """copy_plain over lists."""
    return [x.clone() for x in xs]


def sign_plain(x: Tensor) -> Tensor:
    """-1, 0 or 1, entry by entry."""
    return x.sign()


def sign_foreach(xs: Tensors) -> Tensors:
    """sign_plain over lists."""
    return list(torch._foreach_sign(xs))


def step_plain(weight: Tensor, direction: Tensor, lr: Tensor, *, scale: float = 1.0) -> Tensor:
    """weight - lr scale direction"""
    return weight - (lr * scale) * direction


def step_foreach_(
    weights: Tensors, directions: Tensors, lr: Tensor, *, scale: list[float]
) -> Tensors:
    """step_plain over lists; overwrites the weights.  lr stays on the device."""
    torch._foreach_addcmul_(weights, directions, [lr] * len(weights), [-s for s in scale])
    return weights


count = elementwise("count", count_plain, count_foreach_, flops=0, passes=0, writes_first=True)
copy = elementwise("copy", copy_plain, copy_foreach, flops=0, passes=2)
sign = elementwise("sign", sign_plain, sign_foreach, flops=1, passes=2)
step = elementwise("step", step_plain, step_foreach_, flops=2, passes=3, writes_first=True)
