"""whiten(m, v) = m / v^p, entry by entry, with the bias of both averages removed."""

import torch
from torch import Tensor

from modula.kernels.op import Locality, Op, elementwise_cost

Tensors = list[Tensor]


def _corrections(step: float, beta: float, beta_square: float) -> tuple[float, float]:
    return 1 - beta**step, 1 - beta_square**step


def whiten_plain(
    mean: Tensor,
    square: Tensor,
    step: Tensor,
    *,
    beta: float,
    beta_square: float,
    floor: float,
) -> Tensor:
    """(m / (1 - beta^k)) / (sqrt(v / (1 - beta_square^k)) + floor), all shapes equal.

    The floor is Adam's epsilon; an entry whose gradients were all zero stays zero.
    Source: Kingma and Ba 2015, arXiv:1412.6980.
    """
    first, second = _corrections(float(step), beta, beta_square)
    denominator = (square / second).sqrt() + floor
    return torch.where(denominator > 0, (mean / first) / denominator, 0.0)


def whiten_foreach(
    means: Tensors,
    squares: Tensors,
    steps: Tensors,
    *,
    beta: float,
    beta_square: float,
    floor: float,
) -> Tensors:
    """whiten_plain over lists: m / (sqrt(v) first / sqrt(second) + floor first)."""
    corrections = [_corrections(float(step), beta, beta_square) for step in steps]
    denominators = list(torch._foreach_sqrt(squares))
    torch._foreach_mul_(denominators, [first / second**0.5 for first, second in corrections])
    # A floor of zero still needs a denominator above zero where no gradient was ever seen.
    smallest = torch.finfo(means[0].dtype).tiny
    torch._foreach_add_(denominators, [max(floor * first, smallest) for first, _ in corrections])
    return list(torch._foreach_div(means, denominators))


whiten = Op(
    "whiten", whiten_plain, elementwise_cost(5, 6), Locality.ELEMENTWISE, foreach=whiten_foreach
)
