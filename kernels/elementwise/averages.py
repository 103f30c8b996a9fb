"""Averages of gradients and of their squares, entry by entry: momenta and second moments."""

import torch
from torch import Tensor

from modula.kernels.op import elementwise

Tensors = list[Tensor]


def average_plain(state: Tensor, x: Tensor, *, beta: float) -> Tensor:
    """beta state + (1 - beta) x: the exponential moving average."""
    return state.lerp(x, 1 - beta)


def average_foreach_(states: Tensors, xs: Tensors, *, beta: float) -> Tensors:
    """average_plain over lists; overwrites the states."""
    torch._foreach_lerp_(states, xs, 1 - beta)
    return states


def newest(step: Tensor, beta: float) -> Tensor:
    """Weight of the newest of `step` samples in an average as if begun with the first one.

    In float64: beta^step near 1 would lose the weight's digits in float32.
    """
    return (1 - beta) / (1 - beta ** step.double())


def unbiased_average_plain(state: Tensor, x: Tensor, step: Tensor, *, beta: float) -> Tensor:
    """state + w (x - state) with w = (1 - beta) / (1 - beta^step); step: 0-d.

    The average beta m + (1 - beta) x divided by its weights' sum, 1 - beta^step, and kept so.
    """
    return state.lerp(x, newest(step, beta).to(state.dtype))


def unbiased_average_foreach_(
    states: Tensors, xs: Tensors, steps: Tensors, *, beta: float
) -> Tensors:
    """unbiased_average_plain over lists; overwrites the states."""
    # The host counts steps: as a list it hands them on without waiting for a device.
    torch._foreach_lerp_(states, xs, newest(torch.stack(steps), beta).tolist())
    return states


def unbiased_average_square_plain(state: Tensor, x: Tensor, step: Tensor, *, beta: float) -> Tensor:
    """The same for x^2, entry by entry."""
    return state.lerp(x * x, newest(step, beta).to(state.dtype))


def unbiased_average_square_foreach_(
    states: Tensors, xs: Tensors, steps: Tensors, *, beta: float
) -> Tensors:
    """unbiased_average_square_plain over lists; overwrites the states."""
    weights = newest(torch.stack(steps), beta)
    torch._foreach_mul_(states, (1 - weights).tolist())
    torch._foreach_addcmul_(states, xs, xs, weights.tolist())
    return states


def add_square_plain(state: Tensor, x: Tensor) -> Tensor:
    """state + x^2, entry by entry."""
    return state + x * x


def add_square_foreach_(states: Tensors, xs: Tensors) -> Tensors:
    """add_square_plain over lists; overwrites the states."""
    torch._foreach_addcmul_(states, xs, xs, 1.0)
    return states


def accumulate_plain(state: Tensor, x: Tensor, *, beta: float) -> Tensor:
    """beta state + x: the heavy ball."""
    return beta * state + x


def accumulate_foreach_(states: Tensors, xs: Tensors, *, beta: float) -> Tensors:
    """accumulate_plain over lists; overwrites the states."""
    torch._foreach_mul_(states, beta)
    torch._foreach_add_(states, xs)
    return states


def average_square_plain(state: Tensor, x: Tensor, *, beta: float) -> Tensor:
    """beta state + (1 - beta) x^2, entry by entry."""
    return beta * state + (1 - beta) * x * x


def average_square_foreach_(states: Tensors, xs: Tensors, *, beta: float) -> Tensors:
    """average_square_plain over lists; overwrites the states."""
    torch._foreach_mul_(states, beta)
    torch._foreach_addcmul_(states, xs, xs, 1 - beta)
    return states


def blend_plain(gradient: Tensor, momentum: Tensor, *, beta: float) -> Tensor:
    """(1 - beta) gradient + beta momentum."""
    return gradient.lerp(momentum, beta)


def blend_foreach(gradients: Tensors, momenta: Tensors, *, beta: float) -> Tensors:
    """blend_plain over lists."""
    return list(torch._foreach_lerp(gradients, momenta, beta))


def lookahead_plain(gradient: Tensor, momentum: Tensor, *, beta: float) -> Tensor:
    """gradient + beta momentum: Nesterov's query of a heavy ball."""
    return gradient + beta * momentum


def lookahead_foreach(gradients: Tensors, momenta: Tensors, *, beta: float) -> Tensors:
    """lookahead_plain over lists."""
    return list(torch._foreach_add(gradients, momenta, alpha=beta))


average = elementwise(
    "average", average_plain, average_foreach_, flops=3, passes=3, writes_first=True
)
accumulate = elementwise(
    "accumulate", accumulate_plain, accumulate_foreach_, flops=2, passes=3, writes_first=True
)
average_square = elementwise(
    "average_square",
    average_square_plain,
    average_square_foreach_,
    flops=4,
    passes=3,
    writes_first=True,
)
blend = elementwise("blend", blend_plain, blend_foreach, flops=3, passes=3)
lookahead = elementwise("lookahead", lookahead_plain, lookahead_foreach, flops=2, passes=3)
unbiased_average = elementwise(
    "unbiased_average",
    unbiased_average_plain,
    unbiased_average_foreach_,
    flops=3,
    passes=3,
    writes_first=True,
)
unbiased_average_square = elementwise(
    "unbiased_average_square",
    unbiased_average_square_plain,
    unbiased_average_square_foreach_,
    flops=4,
    passes=3,
    writes_first=True,
)
add_square = elementwise(
    "add_square", add_square_plain, add_square_foreach_, flops=2, passes=3, writes_first=True
)
