"""The elementwise ops of an update: averaging gradients, stepping and shrinking weights."""

import torch
from torch import Tensor

from modula.kernels.op import Locality, Op, elementwise_cost

Tensors = list[Tensor]


def _elementwise(name: str, plain, foreach, *, flops: float, passes: int, writes_first=False) -> Op:  # type: ignore[no-untyped-def]
    cost = elementwise_cost(flops, passes)
    return Op(name, plain, cost, Locality.ELEMENTWISE, foreach, writes_first)


def average_plain(state: Tensor, x: Tensor, *, beta: float) -> Tensor:
    """beta state + (1 - beta) x: the exponential moving average."""
    return state.lerp(x, 1 - beta)


def average_foreach_(states: Tensors, xs: Tensors, *, beta: float) -> Tensors:
    """average_plain over lists; overwrites the states."""
    torch._foreach_lerp_(states, xs, 1 - beta)
    return states


def newest(step: float, beta: float) -> float:
    """Weight of the newest of `step` samples in an average as if begun with the first one."""
    return 1.0 if beta == 0 else (1 - beta) / (1 - beta**step)


def unbiased_average_plain(state: Tensor, x: Tensor, step: Tensor, *, beta: float) -> Tensor:
    """state + w (x - state) with w = (1 - beta) / (1 - beta^step).

    The average beta m + (1 - beta) x divided by its weights' sum, 1 - beta^step, and kept so.
    """
    return state.lerp(x, newest(float(step), beta))


def unbiased_average_foreach_(
    states: Tensors, xs: Tensors, steps: Tensors, *, beta: float
) -> Tensors:
    """unbiased_average_plain over lists; overwrites the states."""
    torch._foreach_lerp_(states, xs, [newest(float(step), beta) for step in steps])
    return states


def unbiased_average_square_plain(state: Tensor, x: Tensor, step: Tensor, *, beta: float) -> Tensor:
    """The same for x^2, entry by entry."""
    return state.lerp(x * x, newest(float(step), beta))


def unbiased_average_square_foreach_(
    states: Tensors, xs: Tensors, steps: Tensors, *, beta: float
) -> Tensors:
    """unbiased_average_square_plain over lists; overwrites the states."""
    weights = [newest(float(step), beta) for step in steps]
    torch._foreach_mul_(states, [1 - weight for weight in weights])
    torch._foreach_addcmul_(states, xs, xs, weights)
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


def count_plain(steps: Tensor) -> Tensor:
    """steps + 1"""
    return steps + 1


def count_foreach_(steps: Tensors) -> Tensors:
    """count_plain over lists; overwrites the counters."""
    torch._foreach_add_(steps, 1)
    return steps


def copy_plain(x: Tensor) -> Tensor:
    """x, in memory of its own."""
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


def decay_plain(weight: Tensor, lr: Tensor, *, rate: float, scale: float = 1.0) -> Tensor:
    """(1 - lr scale rate) weight"""
    return weight * (1 - lr * (scale * rate))


def decay_foreach_(weights: Tensors, lr: Tensor, *, rate: float, scale: list[float]) -> Tensors:
    """decay_plain over lists; overwrites the weights."""
    for weight, s in zip(weights, scale, strict=True):
        weight.mul_(1 - lr * (s * rate))
    return weights


def step_plain(weight: Tensor, direction: Tensor, lr: Tensor, *, scale: float = 1.0) -> Tensor:
    """weight - lr scale direction"""
    return weight - (lr * scale) * direction


def step_foreach_(
    weights: Tensors, directions: Tensors, lr: Tensor, *, scale: list[float]
) -> Tensors:
    """step_plain over lists; overwrites the weights.  lr stays on the device."""
    torch._foreach_addcmul_(weights, directions, [lr] * len(weights), [-s for s in scale])
    return weights


average = _elementwise(
    "average", average_plain, average_foreach_, flops=3, passes=3, writes_first=True
)
accumulate = _elementwise(
    "accumulate", accumulate_plain, accumulate_foreach_, flops=2, passes=3, writes_first=True
)
average_square = _elementwise(
    "average_square",
    average_square_plain,
    average_square_foreach_,
    flops=4,
    passes=3,
    writes_first=True,
)
blend = _elementwise("blend", blend_plain, blend_foreach, flops=3, passes=3)
lookahead = _elementwise("lookahead", lookahead_plain, lookahead_foreach, flops=2, passes=3)
count = _elementwise("count", count_plain, count_foreach_, flops=0, passes=0, writes_first=True)
copy = _elementwise("copy", copy_plain, copy_foreach, flops=0, passes=2)
sign = _elementwise("sign", sign_plain, sign_foreach, flops=1, passes=2)
decay = _elementwise("decay", decay_plain, decay_foreach_, flops=1, passes=2, writes_first=True)
step = _elementwise("step", step_plain, step_foreach_, flops=2, passes=3, writes_first=True)
unbiased_average = _elementwise(
    "unbiased_average",
    unbiased_average_plain,
    unbiased_average_foreach_,
    flops=3,
    passes=3,
    writes_first=True,
)
unbiased_average_square = _elementwise(
    "unbiased_average_square",
    unbiased_average_square_plain,
    unbiased_average_square_foreach_,
    flops=4,
    passes=3,
    writes_first=True,
)
add_square = _elementwise(
    "add_square", add_square_plain, add_square_foreach_, flops=2, passes=3, writes_first=True
)
