r"""near_polar(x) = x (x^T x)^(-1/2), for x whose columns are nearly orthogonal and equally long.

A step A from orthonormal columns W along a tangent gives (W - eta A)^T (W - eta A) = I + eta^2
A^T A, so that with its mean eigenvalue c the Gram matrix is c (I + E) and E is of the order of
eta^2: the series

    (I + E)^(-1/2) = I - E/2 + 3 E^2/8 - 5 E^3/16 + 35 E^4/128 - 63 E^5/256 + 231 E^6/1024 - ...

needs three products of n x n matrices, and x itself is read twice.  Up to eta = 1/2 what is left
out is below 1e-7; at eta = 1 it is 1e-4, and the next step corrects it.  Where a bound says that
an eigenvalue of I + E may be above two, c is chosen larger, so that no step can diverge.
"""

from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from modula.kernels.gram import one_by_one, symmetric_product
from modula.kernels.op import Cost, Op, Shape, check_matrix

SERIES = (-1 / 2, 3 / 8, -5 / 16, 35 / 128, -63 / 256, 231 / 1024)


def near_polar_plain(x: Tensor, *, scale: float = 1.0) -> Tensor:
    """scale * U V^T for x = U S V^T: (..., m, n), m >= n, singular values nearly equal."""
    check_matrix(x, "near_polar")
    if x.numel() == 0:
        return x.clone()
    work = x.float() if x.dtype.itemsize < 4 else x
    return one_by_one(partial(_near_polar, scale=scale), work).to(x.dtype)


def _near_polar(x: Tensor, scale: float) -> Tensor:
    gram = symmetric_product(x.mT, x)
    mean = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    mean = torch.where(mean > 0, mean, 1.0)
    e = gram / mean
    e.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    square = symmetric_product(e, e)
    # 1 + ||E^2||_F^(1/2) bounds the eigenvalues of I + E.
    excess = (1 + torch.linalg.matrix_norm(square, keepdim=True).sqrt()) / 2
    size = excess.clamp(min=1.0)
    shrink, shift = 1 / size, 1 / size - 1  # I + E' = (I + E) / size
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    square = shrink**2 * square + 2 * shrink * shift * e + shift**2 * eye
    e = shrink * e + shift * eye
    return x @ (_inverse_root(e, square, eye) * ((mean * size).rsqrt() * scale))


def _inverse_root(e: Tensor, square: Tensor, eye: Tensor) -> Tensor:
    """(I + E)^(-1/2) up to E^6, from E and E^2."""
    c1, c2, c3, c4, c5, c6 = SERIES
    cube = symmetric_product(square, e)
    high = symmetric_product(cube, c4 * e + c5 * square + c6 * cube)
    return eye + c1 * e + c2 * square + c3 * cube + high


def _cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
    batch, (m, n) = prod(shape[:-2]), shape[-2:]
    flops = 4.0 * m * n**2 + 6.0 * n**3
    return Cost(batch * flops, batch * itemsize * (3.0 * m * n + 12.0 * n**2))


near_polar = Op("near_polar", near_polar_plain, _cost)
