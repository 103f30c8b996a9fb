r"""near_polar(x) = x (x^T x)^(-1/2), for x whose columns are nearly orthogonal and equally long.

A step A from orthonormal columns W along a tangent gives (W - eta A)^T (W - eta A) = I + eta^2
A^T A, so that with its mean eigenvalue c the Gram matrix is c (I + E) and E is of the order of
eta^2 times the spread of A^T A.  The series

    (I + E)^(-1/2) = I - E/2 + 3 E^2/8 - 5 E^3/16 + 35 E^4/128 - 63 E^5/256 + 231 E^6/1024 - ...

needs three products of n x n matrices, or two up to E^4, which is enough for m >= 2 n: there the
singular values of a steepest A are all nearly one.  An A that holds zeros and ones costs most:

    eta                 0.1     0.2     0.3     0.5
    error, up to E^4    2e-11   2e-8    1e-6    8e-5
    error, up to E^6    1e-15   6e-11   3e-8    3e-6

Errors do not add up: each step starts from the true Gram matrix.  Where an eigenvalue of I + E may
be above two, c is chosen larger, so that no step diverges.
"""

from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from modula.kernels.op import Cost, Op, Shape, check_matrix
from modula.kernels.spectral.products import gram, one_by_one, symmetric_product
from modula.kernels.spectral.rescale import rescale

SERIES = (-1 / 2, 3 / 8, -5 / 16, 35 / 128, -63 / 256, 231 / 1024)


def near_polar_plain(x: Tensor, *, scale: float = 1.0) -> Tensor:
    """scale * U V^T for x = U S V^T: (..., m, n), m >= n, singular values nearly equal."""
    check_matrix(x, "near_polar")
    if x.numel() == 0:
        return x.clone()
    work = x.float() if x.dtype.itemsize < 4 else x
    return one_by_one(partial(_near_polar, scale=scale), rescale(work)).to(x.dtype)


def _near_polar(x: Tensor, scale: float) -> Tensor:
    moment = gram(x.mT)
    size = _size(moment)
    e = moment.div_(size)
    e.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    m, n = x.shape[-2:]
    root = _inverse_root(e) if m < 2 * n else _short_inverse_root(e)
    return x @ root.mul_(size.rsqrt() * scale)


def _size(moment: Tensor) -> Tensor:
    """The mean eigenvalue, or half of a bound on the largest where that is more: (..., 1, 1).

    No eigenvalue exceeds their mean by sqrt(n - 1) standard deviations.
    Source: Wolkowicz and Styan 1980, Bounds for eigenvalues using traces.
    """
    n = moment.shape[-1]
    mean = moment.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    square = torch.linalg.matrix_norm(moment, keepdim=True) ** 2 / n
    deviation = (square - mean**2).clamp(min=0).sqrt()
    # The series converges for eigenvalues of I + E below two, so the largest is kept there.
    size = torch.maximum(mean, (mean + deviation * (n - 1) ** 0.5) / 2)
    return torch.where(size > 0, size, 1.0)


def _inverse_root(e: Tensor) -> Tensor:
    """(I + E)^(-1/2) up to E^6."""
    c1, c2, c3, c4, c5, c6 = SERIES
    square = symmetric_product(e, e)
    cube = symmetric_product(square, e)
    # Two halves of the series, so that one product of n x n matrices joins them.
    high = (c6 * cube).add_(square, alpha=c5).add_(e, alpha=c4)
    low = (c3 * cube).add_(square, alpha=c2).add_(e, alpha=c1)
    low.diagonal(dim1=-2, dim2=-1).add_(1.0)
    return symmetric_product(cube, high, low)


def _short_inverse_root(e: Tensor) -> Tensor:
    """(I + E)^(-1/2) up to E^4."""
    c1, c2, c3, c4, *_ = SERIES
    square = symmetric_product(e, e)
    high = (c4 * square).add_(e, alpha=c3)
    low = (c2 * square).add_(e, alpha=c1)
    low.diagonal(dim1=-2, dim2=-1).add_(1.0)
    return symmetric_product(square, high, low)


def _cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
    batch, (m, n) = prod(shape[:-2]), shape[-2:]
    flops = 4.0 * m * n**2 + (6.0 if m < 2 * n else 4.0) * n**3
    return Cost(batch * flops, batch * itemsize * (6.0 * m * n + 12.0 * n**2))


near_polar = Op("near_polar", near_polar_plain, _cost)
