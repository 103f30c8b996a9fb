r"""Gauge balance: factors of a Kronecker product brought to one size, their product unchanged."""

from collections.abc import Sequence

import torch
from torch import Tensor

from modula.kernels.moments.samples import over
from modula.kernels.moments.structure import Pattern, Structure
from modula.kernels.op import Op, elementwise_cost


def gauge_plain(factor: Tensor, *others: Tensor, kinds: tuple[Structure, ...]) -> Tensor:
    """By how much the mean eigenvalue of a factor exceeds the geometric mean of all of them.

    c = t_0 / (t_0 t_1 ... t_k)^(1/(k+1))       t_i: mean eigenvalues; 1 if any is zero
    """
    return excess([kind.mean(f) for f, kind in zip((factor, *others), kinds, strict=True)])


def excess(sizes: Sequence[Tensor]) -> Tensor:
    """The first of some sizes over their geometric mean; 1 if any is zero or not finite."""
    logs = torch.stack([size.log() for size in sizes])
    ratio = (logs[0] - logs.mean(0)).exp()
    return torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)


def regauge_plain(x: Tensor, gauge: Tensor, *, power: float) -> Tensor:
    """gauge^power x"""
    return over(gauge, x) ** power * x


def factor_gauge_plain(factor: Tensor, *others: Tensor, kinds: tuple[Pattern, ...]) -> Tensor:
    """By how much the mean eigenvalue of K K^T exceeds the geometric mean of all factors': (...)

    Dividing each K by the root of it changes no product of K K^T over the dims of a weight.
    """
    return excess([kind.mean_square(f) for f, kind in zip((factor, *others), kinds, strict=True)])


gauge = Op("gauge", gauge_plain, elementwise_cost(0, 0))
factor_gauge = Op("factor_gauge", factor_gauge_plain, elementwise_cost(2, 1))
regauge = Op("regauge", regauge_plain, elementwise_cost(1, 2))
