r"""Eigenvectors followed by matrix products alone: first-order rotations and CholeskyQR."""

import torch
from torch import Tensor

from modula.kernels.moments.eigenbasis import off_diagonal, renewed_basis
from modula.kernels.precision import full_precision
from modula.kernels.spectral.products import symmetric

NEAR = 0.1  # share off the diagonal up to which a rotation by the gaps beats orthogonal iteration
LARGEST = 0.3  # of the entries of a rotation: eigenvalues nearly equal ask for any angle
SHIFT = 2e-6  # of ||S||_F, added to S: columns of S Q can be parallel, those of Q are not


def next_basis_by_products(
    factor: Tensor, basis: Tensor, step: Tensor, *, young: int, tolerance: float
) -> Tensor:
    """next_basis_plain with other iterates, which wait for the device in the first steps only.

    Where the share of B = Q^T S Q off its diagonal is at most NEAR, Q + Q X, with X the rotation by
    the gaps; elsewhere S Q; the columns of both by CholeskyQR.  The errors of the first are
    squared in each step, those of the second shrink by ratios of eigenvalues.
    """
    with full_precision():
        return renewed_basis(factor, basis, step, young, tolerance, _iterate)


def _iterate(basis: Tensor, product: Tensor) -> Tensor:
    """The next basis from Q and S Q, both sorted."""
    share = basis.mT @ product
    near = off_diagonal(share) <= NEAR
    shift = SHIFT * torch.linalg.matrix_norm(product, keepdim=True)
    iterate = product + shift * basis
    iterate = iterate / torch.linalg.vector_norm(iterate, dim=-2, keepdim=True)
    return orthonormal(torch.where(near, basis + basis @ first_order_rotation(share), iterate))


def first_order_rotation(share: Tensor) -> Tensor:
    """X_ij = B_ij / (B_jj - B_ii), at most LARGEST either way: skew, (..., d, d).

    I + X diagonalises B to first order.
    """
    share = symmetric(share)
    values = share.diagonal(dim1=-2, dim2=-1)
    gaps = values.unsqueeze(-2) - values.unsqueeze(-1)
    ratio = torch.where(share == 0, 0.0, share / gaps)  # +-LARGEST where values are equal
    lower = ratio.clamp(-LARGEST, LARGEST).tril(-1)
    return lower - lower.mT


def orthonormal(x: Tensor) -> Tensor:
    """The Q of X = Q R, R_ii > 0, for X of full rank: CholeskyQR twice, first in float64.

    So it stands condition numbers up to 1e8; where there is no such Q the result is NaN.

    x: (..., m, n) with m >= n
    Source: Yamazaki et al. 2015, "Mixed-precision Cholesky QR factorization".
    """
    for dtype in (torch.float64, x.dtype):
        wide = x.to(dtype)
        lower, failed = torch.linalg.cholesky_ex(wide.mT @ wide)
        q = torch.linalg.solve_triangular(lower, wide.mT, upper=False).mT
        x = torch.where(failed[..., None, None] == 0, q, torch.nan).to(x.dtype)
    return x
