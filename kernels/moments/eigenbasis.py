r"""Eigenvectors of averaged factors, followed step by step; second moments in a new basis."""

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from modula.kernels.moments.root import SMALLEST, eigen
from modula.kernels.moments.second_moment import mean_eigenvalue
from modula.kernels.op import Cost, Op, Shape
from modula.kernels.precision import full_precision


def next_basis_plain(
    factor: Tensor, basis: Tensor, step: Tensor, *, young: int, tolerance: float
) -> Tensor:
    """Orthonormal columns nearer to the eigenvectors of S, the largest eigenvalues first.

    In the first `young` steps, an eigendecomposition; later one step of orthogonal iteration from
    the basis Q, Q <- qr(S Q), with the columns sorted by their share Q^T S Q before.  (The polar
    factor of S Q in place of qr would be Q itself: S Q = Q (Q^T S Q), and Q^T S Q is positive.)

    Where S is not finite or zero, where nothing decomposes it, or where the part of Q^T S Q off
    the diagonal is at most `tolerance` of its Frobenius norm, the basis stays.

    factor, basis: (..., d, d); step: of each weight, on the host.
    Source: Vyas et al. 2024, arXiv:2409.11321; Eschenhagen et al. 2025, arXiv:2506.03595.
    """
    return renewed_basis(factor, basis, step, young, tolerance, _orthogonal_iteration)


def _orthogonal_iteration(basis: Tensor, product: Tensor) -> Tensor:
    return torch.linalg.qr(product)[0]


def renewed_basis(
    factor: Tensor,
    basis: Tensor,
    step: Tensor,
    young: int,
    tolerance: float,
    iterate: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The next basis by a given iterate(Q, S Q) of the sorted columns; where it is NaN, Q stays."""
    size = factor.abs().amax((-2, -1), keepdim=True)
    usable = size.isfinite() & (size > 0)
    unit = torch.where(usable, factor / size, 0.0)
    product, is_young = unit @ basis, step <= young
    # `step` stands on the host: to look at it waits for no device.
    if bool(is_young.all()):
        found = eigen(unit)[1].flip(-1)
    else:
        found = iterate(*_sorted(basis, product))
        if bool(is_young.any()):
            which = is_young.reshape(*is_young.shape, *(1,) * (unit.ndim - is_young.ndim))
            found = torch.where(which.to(unit.device), eigen(unit)[1].flip(-1), found)
    good = usable & found.isfinite().all((-2, -1), keepdim=True)
    if tolerance:
        good = good & (off_diagonal(basis.mT @ product) > tolerance)
    return torch.where(good, found, basis)


def _sorted(basis: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """Q and S Q, with the columns of the largest q^T S q first."""
    # The first columns of an orthogonal iteration converge first: they are to be the largest.
    order = (basis * product).sum(-2).argsort(dim=-1, stable=True, descending=True)
    order = order.unsqueeze(-2).expand_as(product)
    return basis.gather(-1, order), product.gather(-1, order)


def root_in_basis_plain(
    factor: Tensor, basis: Tensor, previous: Tensor, *, power: float, damping: float
) -> Tensor:
    """Q (diag(Q^T S Q) + damping mean)^-power Q^T: the inverse root where Q is S's eigenbasis.

    mean: the mean eigenvalue.  Where S is not finite or not positive the previous root stays.
    Rounding may leave a share of zero or below: it counts as zero, and damping bounds its root.

    factor, basis, previous: (..., d, d)
    """
    size = mean_eigenvalue(factor, 2)
    usable = (size.isfinite() & (size > 0))[..., None, None]
    unit = torch.where(usable, factor / size[..., None, None], 0.0)
    with full_precision():  # the smallest of Q^T S Q are far below the rounding of TF32
        share = (basis * (unit @ basis)).sum(-2).clamp(min=0)
    values = share + max(damping, SMALLEST * torch.finfo(factor.dtype).eps)
    out = (basis * values.unsqueeze(-2) ** -power) @ basis.mT
    out = out * torch.where(usable, size[..., None, None], 1.0) ** -power
    return torch.where(usable & out.isfinite().all((-2, -1), keepdim=True), out, previous)


def off_diagonal(x: Tensor) -> Tensor:
    """||B - diag B||_F / ||B||_F: (..., d, d) -> (..., 1, 1); zero for a zero matrix."""
    size = torch.linalg.matrix_norm(x, keepdim=True)
    rest = torch.linalg.matrix_norm(x - torch.diag_embed(x.diagonal(0, -2, -1)), keepdim=True)
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


def _basis_cost(shape: Shape, itemsize: int = 4, **options: object) -> Cost:
    # A QR decomposition with its Q takes nominally 8/3 d^3, the product before it 2 d^3.
    return Cost(14 / 3 * prod(shape) * shape[-1], 6.0 * itemsize * prod(shape))


def _root_cost(shape: Shape, itemsize: int = 4, **options: object) -> Cost:
    return Cost(4.0 * prod(shape) * shape[-1], 5.0 * itemsize * prod(shape))


def _carried_cost(
    shape: Shape, itemsize: int = 4, *, dims: tuple[int, ...], ndim: int, **options: object
) -> Cost:
    entries, blocks = prod(shape), prod(shape[:-ndim])
    flops = sum(2.0 * entries * shape[dim] + 2.0 * blocks * shape[dim] ** 3 for dim in dims)
    return Cost(flops, 2.0 * itemsize * entries * len(dims))


next_basis = Op(
    "next_basis",
    next_basis_plain,
    _basis_cost,
    fused_at="modula.kernels.moments.eigenbasis_by_products:next_basis_by_products",
)
root_in_basis = Op("root_in_basis", root_in_basis_plain, _root_cost)
carried = Op("carried", carried_plain, _carried_cost)
