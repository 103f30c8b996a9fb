r"""Second moments of a gradient along one of its dims, averaged over steps.

M = share * mat_i(H) mat_i(H)^T      mat_i(H): dim i of the weight as rows, others as columns
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from modula.kernels.moments.samples import entries, over
from modula.kernels.moments.structure import Pattern, Structure
from modula.kernels.op import Cost, Op, Shape, elementwise_cost


def unfold(x: Tensor, dim: int, ndim: int) -> Tensor:
    """mat_i(x): (..., d_1, ..., d_ndim) -> (..., d_i, the rest)"""
    if ndim == 2:
        return x if dim == -2 else x.mT
    return x.movedim(dim, -ndim).flatten(-ndim + 1, -1) if ndim > 1 else x.unsqueeze(-1)


def moment(x: Tensor, kind: Pattern, *, dim: int, ndim: int, share: float) -> Tensor:
    """What is kept of share * mat_i(x) mat_i(x)^T, (..., d_i, d_i)."""
    return share * kind.gram(unfold(x, dim, ndim))


def step_weight(seen: Tensor, beta: float, unbiased: bool) -> Tensor:
    """The weight of the newest of `seen` samples: 1 - beta, or 1 - beta over 1 - beta^seen."""
    if not unbiased:
        return torch.full_like(seen, 1 - beta)
    # At the first sample exactly 1: rounded, it would leave 1e-7 of what was there before.
    return torch.where(seen > 1, (1 - beta) / (1 - beta ** seen.clamp(min=2)), 1.0)


def average_moment(
    factor: Tensor, new: Tensor, seen: Tensor, *, beta: float, unbiased: bool
) -> Tensor:
    """factor + weight (new - factor), or factor + new where beta is 1; zero `new` changes nothing.

    factor, new: (..., *shape), seen: (...)
    """
    if beta == 1:
        return factor + new
    is_sample = entries(new != 0, seen).any(-1)
    weight = torch.where(is_sample, step_weight(seen, beta, unbiased), 0.0)
    return factor + over(weight, new) * (new - factor)


def average_gram_plain(
    factor: Tensor,
    x: Tensor,
    seen: Tensor,
    *,
    dim: int,
    ndim: int,
    share: float,
    beta: float,
    unbiased: bool,
    kind: Pattern,
) -> Tensor:
    """The average of share * mat_i(x) mat_i(x)^T, a sample further, as much as is kept of it.

    Where that overflows, as where x was seen through tiny roots, it is no sample.
    """
    new = moment(x, kind, dim=dim, ndim=ndim, share=share)
    usable = entries(new, seen).isfinite().all(-1)
    new = new.where(over(usable, new), 0.0)
    return average_moment(factor, new, seen, beta=beta, unbiased=unbiased)


def mean_eigenvalue(factor: Tensor, ndim: int) -> Tensor:
    """trace / d of factors (..., d, d) with ndim 2, or of their diagonals (..., d) with ndim 1."""
    diagonal = factor.diagonal(dim1=-2, dim2=-1) if ndim == 2 else factor
    return diagonal.mean(-1)


def first_scale_plain(
    factor: Tensor, gradient: Tensor, seen: Tensor, *, power: float, kind: Structure
) -> Tensor:
    """At the first sample, a multiple of the identity in keeping with its size: rms(G)^power I.

    What a single gradient says of a coupled fit has the inverse of the right spectrum; averages
    that begin with the identity learn it step by step.  Later the factor stays as it is.
    """
    rms = entries(gradient, seen).square().mean(-1).sqrt()
    begun = kind.identity(torch.where(rms > 0, rms, 1.0) ** power, factor)
    is_first = (seen == 1) & (rms > 0)
    return torch.where(is_first[(..., *(None,) * kind.ndim)], begun, factor)


def _gram_cost(
    shape: Shape, itemsize: int = 4, *, dim: int, ndim: int, kind: Structure, **options: Any
) -> Cost:
    width, entries = kind.width(shape[dim]), prod(shape)
    kept = prod(shape[:-ndim]) * shape[dim] * width
    return Cost(2.0 * entries * width + 3.0 * kept, itemsize * (entries + 3.0 * kept))


average_gram = Op("average_gram", average_gram_plain, _gram_cost)
first_scale = Op("first_scale", first_scale_plain, elementwise_cost(0, 1))
