r"""Following the eigenvectors of an averaged factor, and carrying second moments along."""

import torch
from torch import Tensor

from modula.kernels.op import Cost, Op, Shape, elementwise_cost
from modula.kernels.root import eigen


def next_basis_plain(
    factor: Tensor, basis: Tensor, step: Tensor, *, young: int, tolerance: float
) -> Tensor:
    """Orthonormal columns nearer to the eigenvectors of S, the largest eigenvalues first.

    In the first `young` steps, an eigendecomposition; later one step of orthogonal iteration from
    the basis Q, Q <- qr(S Q), with the columns sorted by their share Q^T S Q before.  (The polar
    factor of S Q in place of qr would be Q itself: S Q = Q (Q^T S Q), and Q^T S Q is positive.)

    Where S is not finite or zero, where nothing decomposes it, or where the part of Q^T S Q off
    the diagonal is at most `tolerance` of its Frobenius norm, the basis stays.

    factor, basis: (..., d, d); step: on the host, equal for all.
    Source: Vyas et al. 2024, arXiv:2409.11321; Eschenhagen et al. 2025, arXiv:2506.03595.
    """
    size = factor.abs().amax((-2, -1), keepdim=True)
    usable = size.isfinite() & (size > 0)
    unit = torch.where(usable, factor / size, 0.0)
    if bool((step <= young).any()):  # `step` is counted on the host
        found = eigen(unit)[1].flip(-1)
    else:
        share = (basis * (unit @ basis)).sum(-2)
        order = share.argsort(dim=-1, stable=True, descending=True).unsqueeze(-2).expand_as(basis)
        found = torch.linalg.qr(unit @ basis.gather(-1, order))[0]
    good = usable & found.isfinite().all((-2, -1), keepdim=True)
    if tolerance:
        good = good & (off_diagonal(unit, basis) > tolerance)
    return torch.where(good, found, basis)


def off_diagonal(factor: Tensor, basis: Tensor) -> Tensor:
    """||B - diag B||_F / ||B||_F for B = Q^T S Q: (..., 1, 1); zero for a zero factor."""
    b = basis.mT @ factor @ basis
    size = torch.linalg.matrix_norm(b, keepdim=True)
    rest = torch.linalg.matrix_norm(
        b - torch.diag_embed(b.diagonal(dim1=-2, dim2=-1)), keepdim=True
    )
    return torch.where(size > 0, rest / size, 0.0)


def carried_plain(square: Tensor, *bases: Tensor, dims: tuple[int, ...], ndim: int) -> Tensor:
    """Second moments D in other bases: along each of the dims, D <- (R * R)^T D, R = Q^T Q'.

    The diagonal of R^T diag(D) R, which is what a rotation leaves of a diagonal second moment:
    first moments turn by R, second ones by its squares.  Sums and signs are kept.

    square: (..., *block); bases: old and new one of each dim in turn, (..., d, d)
    """
    for dim, old, new in zip(dims, bases[::2], bases[1::2], strict=True):
        turn = (old.mT @ new).square()
        rows = square.movedim(dim, -1)
        flat = rows.reshape(*rows.shape[: rows.ndim - ndim], -1, rows.shape[-1])
        square = (flat @ turn).reshape(rows.shape).movedim(-1, dim)
    return square


def kept_plain(new: Tensor) -> Tensor:
    """The tensor as it is."""
    return new


def _basis_cost(shape: Shape, itemsize: int = 4, **options: object) -> Cost:
    *batch, d, _ = shape
    many = 1
    for size in batch:
        many *= size
    # A QR decomposition with its Q takes nominally 8/3 d^3, the products before it 4 d^3.
    return Cost(20 / 3 * many * d**3, 6.0 * itemsize * many * d * d)


def _carried_cost(
    shape: Shape, itemsize: int = 4, *, dims: tuple[int, ...], ndim: int, **options: object
) -> Cost:
    entries = 1
    for size in shape:
        entries *= size
    flops = sum(2.0 * entries * shape[dim] + 2.0 * shape[dim] ** 3 for dim in dims)
    return Cost(flops, 2.0 * itemsize * entries * len(dims))


next_basis = Op("next_basis", next_basis_plain, _basis_cost)
carried = Op("carried", carried_plain, _carried_cost)
kept = Op("kept", kept_plain, elementwise_cost(0, 2))
