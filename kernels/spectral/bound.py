"""An upper bound on sigma_max from matrix products alone."""

from math import prod
from typing import Any

import torch
from torch import Tensor

from modula.kernels.op import Cost, Locality, Op, Shape, check_matrix

SQUARINGS = 16  # loose by at most min(m, n) ** 2**-18: 0.003 % for a side of 1000


def spectral_bound_plain(x: Tensor, *, squarings: int = SQUARINGS) -> Tensor:
    """sigma_max(x) <= result <= min(m, n) ** (2 ** -(squarings + 2)) * sigma_max(x).

    The Schatten norm of order p = 2 ** (squarings + 2),  || (x^T x) ^ (p / 4) ||_F ^ (2 / p),
    by repeated squaring; each square is rescaled, so nothing over- or underflows.

        x: (..., m, n) -> (...)
    """
    check_matrix(x, "spectral_bound")
    work = x.float() if x.dtype.itemsize < 4 else x
    largest = work.abs().amax((-2, -1), keepdim=True)
    # Divided by the largest entry first, as squares of float32 overflow from 1e19 on.
    work = torch.where(largest == 0, 0.0, work / largest)
    power = work @ work.mT if x.shape[-2] < x.shape[-1] else work.mT @ work
    size = torch.linalg.matrix_norm(power, keepdim=True)
    bound = size.sqrt()
    for k in range(1, squarings + 1):
        power = torch.where(size == 0, 0.0, power / size)
        power = power @ power
        size = torch.linalg.matrix_norm(power, keepdim=True)
        bound = bound * size ** (0.5 ** (k + 1))
    return (largest * bound).squeeze((-2, -1)).to(x.dtype)


def _cost(shape: Shape, itemsize: int = 4, *, squarings: int = SQUARINGS, **options: Any) -> Cost:
    batch, short, long = prod(shape[:-2]), *sorted(shape[-2:])
    flops = 2.0 * short**2 * (long + squarings * short)
    entries = long * short + 2.0 * squarings * short**2
    return Cost(batch * flops, batch * itemsize * entries)


spectral_bound = Op("spectral_bound", spectral_bound_plain, _cost, Locality.WHOLE)
