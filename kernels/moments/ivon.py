"""The elementwise ops of IVON: a Gaussian over weights, precision ess (h + delta), entry by entry.

h: average Hessian of the loss of one example; ess: the number of examples; delta: the precision
of the prior, which is weight decay and damping at once.  h + delta > 0 at the start stays so.
Source: Shen et al. 2024, arXiv:2402.17641.
"""

import torch
from torch import Tensor

from modula.kernels.op import Locality, Op, elementwise_cost

Tensors = list[Tensor]


def stein_hessian_plain(product: Tensor, hessian: Tensor, *, ess: float, delta: float) -> Tensor:
    """product ess (h + delta): the diagonal Hessian at the mean of the Gaussian.

    product  of the gradient at a sample and the sample's distance from the mean, entry by entry

    Over the variance, its expectation is E[Hessian].
    Source: Stein 1981, lemma 2.
    """
    return product * (ess * (hessian + delta))


def stein_hessian_foreach(
    products: Tensors, hessians: Tensors, *, ess: float, delta: float
) -> Tensors:
    """stein_hessian_plain over lists."""
    found = list(torch._foreach_add(hessians, delta))
    torch._foreach_mul_(found, ess)
    torch._foreach_mul_(found, products)
    return found


def positive_average_plain(state: Tensor, x: Tensor, *, beta: float, delta: float) -> Tensor:
    """beta h + (1 - beta) x + (1 - beta)^2 (h - x)^2 / (2 (h + delta)), whatever x, above -delta.

    With s = h + delta and D = (1 - beta) (x - h): s + D + D^2 / (2 s) >= s / 2, the second-order
    retraction on positive numbers, which is s exp(D / s) up to O(D^3).
    Source: Lin, Schmidt, Khan 2020, arXiv:2002.10060.
    """
    change = (1 - beta) * (x - state)
    return state + change + change * (change / _above_zero(state + delta)) / 2


def positive_average_foreach_(
    states: Tensors, xs: Tensors, *, beta: float, delta: float
) -> Tensors:
    """positive_average_plain over lists; overwrites the states."""
    changes = list(torch._foreach_sub(xs, states))
    torch._foreach_mul_(changes, 1 - beta)
    bends = _shifted(states, delta)
    torch._foreach_reciprocal_(bends)
    torch._foreach_mul_(bends, changes)
    torch._foreach_mul_(bends, changes)
    torch._foreach_add_(states, changes)
    torch._foreach_add_(states, bends, alpha=0.5)
    return states


def posterior_direction_plain(
    momentum: Tensor, weight: Tensor, hessian: Tensor, *, delta: float, clip: float
) -> Tensor:
    """(m + delta w) / (h + delta), each entry no larger than clip.

    m: unbiased average of the gradients; h: the new one, as the mean of a Gaussian moves by its
    new precision.
    """
    gradient = momentum + delta * weight
    return (gradient / _above_zero(hessian + delta)).clamp(-clip, clip)


def posterior_direction_foreach(
    momenta: Tensors, weights: Tensors, hessians: Tensors, *, delta: float, clip: float
) -> Tensors:
    """posterior_direction_plain over lists."""
    found = list(torch._foreach_add(momenta, weights, alpha=delta))
    torch._foreach_div_(found, _shifted(hessians, delta))
    torch._foreach_clamp_max_(found, clip)
    torch._foreach_clamp_min_(found, -clip)
    return found


def _above_zero(x: Tensor) -> Tensor:
    """x, or the smallest normal number, so that nothing divided by nothing is zero."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)


def _shifted(hessians: Tensors, delta: float) -> Tensors:
    shifted = list(torch._foreach_add(hessians, delta))
    torch._foreach_clamp_min_(shifted, torch.finfo(shifted[0].dtype).tiny)
    return shifted


stein_hessian = Op(
    "stein_hessian",
    stein_hessian_plain,
    elementwise_cost(3, 3),
    Locality.ELEMENTWISE,
    stein_hessian_foreach,
    can_fail=False,
)
positive_average = Op(
    "positive_average",
    positive_average_plain,
    elementwise_cost(8, 3),
    Locality.ELEMENTWISE,
    positive_average_foreach_,
    writes_first=True,
    can_fail=False,
)
posterior_direction = Op(
    "posterior_direction",
    posterior_direction_plain,
    elementwise_cost(6, 4),
    Locality.ELEMENTWISE,
    posterior_direction_foreach,
    can_fail=False,
)
