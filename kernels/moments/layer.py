"""Averaged second moments of a layer's inputs and output gradients, and their eigenbases.

A statistic that is not finite, or no second moment, is no sample: the average stays.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from modula.kernels.moments.root import eigen
from modula.kernels.moments.samples import counting_rejected, is_finite, is_moment, over
from modula.kernels.moments.second_moment import average_moment
from modula.kernels.op import Cost, Op, Shape


def average_blocks_plain(
    factor: Tensor,
    moment: Tensor,
    seen: Tensor,
    *,
    beta: float,
    unbiased: bool,
    counts: tuple[int, ...] = (),
) -> Tensor:
    """The average of a moment's diagonal blocks, a sample further: (..., *counts, d, d).

    moment  (..., D, D) with D = prod(counts) d
    counts  (), or the blocks of outputs and of inputs, of which one is 1
    """
    usable = over(is_moment(moment, seen), factor)
    new = diagonal_blocks(moment, counts).where(usable, 0.0)
    return average_moment(factor, new, seen, beta=beta, unbiased=unbiased)


def diagonal_blocks(moment: Tensor, counts: tuple[int, ...]) -> Tensor:
    """(..., D, D) -> (..., *counts, d, d): the square blocks along the diagonal."""
    if not counts:
        return moment
    count = max(counts)
    size = moment.shape[-1] // count
    cut = moment.unflatten(-1, (count, size)).unflatten(-3, (count, size))
    blocks = cut.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
    return blocks.unsqueeze(-3 if counts[-1] == 1 else -4)


def are_rows(x: Tensor, e: Tensor) -> Tensor:
    """Whether rows of inputs and of output gradients are finite and any: ()."""
    return x.isfinite().all() & e.isfinite().all() & x.any() & e.any()


def tally_rows_plain(seen: Tensor, x: Tensor, e: Tensor) -> Tensor:
    """seen + 1 where the rows are a sample.  x: (rows, n), e: (rows, m)"""
    return seen + are_rows(x, e)


def average_rows_plain(
    factor: Tensor, rows: Tensor, seen: Tensor, *, beta: float, unbiased: bool
) -> Tensor:
    """The average of rows^T rows / their number, a sample further: (d, d)."""
    new = rows.mT @ rows / max(1, len(rows))
    new = new.where(new.isfinite().all(), 0.0)
    return average_moment(factor, new, seen, beta=beta, unbiased=unbiased)


def average_curvature_plain(
    curvature: Tensor,
    x: Tensor,
    e: Tensor,
    seen: Tensor,
    *bases: Tensor,
    rotated: tuple[bool, bool],
    beta: float,
    unbiased: bool,
) -> Tensor:
    """The average of mean_n (Q_B^T e_n)_i^2 (Q_A^T x_n)_j^2, a sample further: (m, n).

    x: (rows, n), e: (rows, m)
    bases    Q_B and Q_A, those that `rotated` says there are
    """
    rest = list(bases)
    e = e @ rest.pop(0) if rotated[0] else e
    x = x @ rest.pop(0) if rotated[1] else x
    new = e.square().mT @ x.square() / max(1, len(x))
    new = new.where(new.isfinite().all(), 0.0)
    return average_moment(curvature, new, seen, beta=beta, unbiased=unbiased)


def eigenbasis_plain(factor: Tensor, previous: Tensor) -> Tensor:
    """Eigenvectors of factors as columns, eigenvalues rising: (..., d, d).

    The previous basis stays where a factor is zero, not finite, or cannot be decomposed.
    """
    usable = factor.isfinite().all((-2, -1)) & factor.any(-1).any(-1)
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    basis = eigen(torch.where(usable[..., None, None], factor, eye))[1]
    usable = usable & basis.isfinite().all((-2, -1))
    return torch.where(usable[..., None, None], basis, previous)


def eigenvalues_plain(factor: Tensor, basis: Tensor, previous: Tensor) -> Tensor:
    """diag(Q^T S Q), none negative: (..., d, d), (..., d, d) -> (..., d).

    The previous ones stay where S is not finite.
    """
    values = (basis * (factor @ basis)).sum(-2).clamp(min=0)
    return torch.where(values.isfinite().all(-1, keepdim=True), values, previous)


def turn_curvature_plain(curvature: Tensor, fresh: Tensor, basis: Tensor, *, dim: int) -> Tensor:
    """The diagonal curvature as seen in a fresh basis: (R o R)^T D along one dim, R = Q^T Q_fresh.

    It is the exact diagonal of the turned diagonal, stays positive and keeps its sum.
    """
    squares = (basis.mT @ fresh).square()
    return squares.mT @ curvature if dim == -2 else curvature @ squares


def _square_cost(shape: Shape, itemsize: int = 4, **options: object) -> Cost:
    *batch, d, _ = shape
    return Cost(3.0 * prod(batch) * d * d, 3.0 * itemsize * prod(batch) * d * d)


def _eigen_cost(shape: Shape, itemsize: int = 4, **options: object) -> Cost:
    *batch, d, _ = shape
    return Cost(9.0 * prod(batch) * d**3, 2.0 * itemsize * prod(batch) * d**2)


def _values_cost(shape: Shape, itemsize: int = 4, **options: object) -> Cost:
    *batch, d, _ = shape
    return Cost(2.0 * prod(batch) * d**3, 3.0 * itemsize * prod(batch) * d * d)


def _turn_cost(shape: Shape, itemsize: int = 4, *, dim: int) -> Cost:
    m, n = shape[-2:]
    d = shape[dim]
    return Cost(2.0 * d**3 + 2.0 * m * n * d, itemsize * (3.0 * d * d + 2.0 * m * n))


def _of_rows(name: str, plain: Callable[..., Tensor]) -> Op:
    """An op on rows, of which each weight of a batch may have another number."""

    def one_by_one(*lists: list[Tensor], **options: Any) -> list[Tensor]:
        return [plain(*each, **options) for each in zip(*lists, strict=True)]

    return Op(name, plain, _square_cost, foreach=one_by_one)


average_blocks = Op("average_blocks", average_blocks_plain, _square_cost)
eigenbasis = Op("eigenbasis", eigenbasis_plain, _eigen_cost)
eigenvalues = Op("eigenvalues", eigenvalues_plain, _values_cost)
turn_curvature = Op("turn_curvature", turn_curvature_plain, _turn_cost)
tally_rows = _of_rows("tally_rows", tally_rows_plain)
rejected_rows = _of_rows("rejected", counting_rejected(is_finite))
average_rows = _of_rows("average_rows", average_rows_plain)
average_curvature = _of_rows("average_curvature", average_curvature_plain)
