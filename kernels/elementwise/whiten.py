"""whiten(m, S) = m / (S^p + floor), entry by entry."""

import torch
from torch import Tensor

from modula.kernels.op import elementwise

Tensors = list[Tensor]


def whiten_plain(mean: Tensor, square: Tensor, *, power: float, floor: float) -> Tensor:
    """m / (S^power + floor), all shapes equal; zero where the denominator is.

    power 1/2 and the floor are those of Adam's denominator.
    Source: Kingma and Ba 2015, arXiv:1412.6980.
    """
    denominator = square**power + floor
    return torch.where(denominator > 0, mean / denominator, 0.0)


def whiten_foreach(means: Tensors, squares: Tensors, *, power: float, floor: float) -> Tensors:
    """whiten_plain over lists."""
    denominators = list(
        torch._foreach_sqrt(squares) if power == 0.5 else torch._foreach_pow(squares, power)
    )
    torch._foreach_add_(denominators, floor)
    if floor < torch.finfo(means[0].dtype).tiny:  # it may leave a denominator at zero
        for each in denominators:
            each.masked_fill_(each == 0, torch.inf)
    return list(torch._foreach_div(means, denominators))


whiten = elementwise("whiten", whiten_plain, whiten_foreach, flops=3, passes=5)
