r"""spectral_clip(x) = U clip(S, low, high) V^T for x = U S V^T, by matrix products alone.

x: (..., m, n) with m >= n, or transposed.  With O = polar(x) = U V^T and H = O^T x = V S V^T, the
singular values are the eigenvalues of the symmetric H: (..., n, n), and sign(D) = polar(D) for a
symmetric D:

    min(H, high) = high I - Q (high I - H) Q        Q = (I - sign(H - high I)) / 2
    max(H, low)  = low I + P (H - low I) P          P = (I + sign(H - low I)) / 2
    spectral_clip(x) = O max(min(H, high), low)

Q and P project on the eigenvectors inside a bound.  They stand on both sides: an eigenvalue far
outside is then multiplied by the square of a rounding, and no number as large as x is subtracted
from another.  At the bound itself the sign may be any, since there high I - H is zero.

Singular values below the rounding of the largest have no singular vectors.  For low > 0 they become
low all the same: along vectors that they get from a fixed matrix as small as a rounding of x.

Source: clipping by signs, Cesista 2025, Spectral Clipping via Newton-Schulz Iteration (blog), who
has (high O - x) polar(high O - x)^T O in place of the symmetric form, which is derived here.
"""

from functools import partial
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from modula.kernels.op import Cost, Op, Shape, check_matrix
from modula.kernels.spectral.polar import Standard, polar
from modula.kernels.spectral.polynomials import PolarExpress, Polynomials
from modula.kernels.spectral.products import one_by_one, symmetric

# Singular values nearer to a bound than `lower` may stay where they are: `lower` is a rounding.
STEPS = {
    torch.float32: PolarExpress(steps=14, lower=1e-7, safety=1.01, schatten=8),
    torch.float64: PolarExpress(steps=28, lower=1e-15, safety=1.01, schatten=8),
}
PERTURBATION = 16.0  # length of that fixed matrix, in roundings of x
# Its smallest singular value where x has none is far smaller still: by the side of x, squared.
STEPS_PERTURBED = {
    torch.float32: PolarExpress(steps=23, lower=1e-12, safety=1.01, schatten=8),
    torch.float64: PolarExpress(steps=39, lower=1e-21, safety=1.01, schatten=8),
}


def spectral_clip_plain(
    x: Tensor, *, high: float, low: float = 0.0, polynomials: Polynomials | None = None
) -> Tensor:
    """Singular values below `low` become low, those above `high` become high: (..., m, n).

    The nearest matrix with all of them in between; where ||x||_F <= high and low = 0, x itself.
    Half precision is computed in float32; where float32 products are rounded to TF32, no result is
    nearer than 1e-3.  `polynomials` of fewer steps leave errors of up to their `lower` times ||x||,
    and what is smaller than that may stay below `low`.
    """
    check_matrix(x, "spectral_clip")
    if not (0 <= low <= high < inf and high > 0):
        raise ValueError(
            f"spectral_clip needs 0 <= low <= high < inf and high > 0, got low={low}, high={high}: "
            f"without a lower bound low is 0"
        )
    if x.numel() == 0:
        return x.clone()
    work = x.float() if x.dtype.itemsize < 4 else x
    tall = work if x.shape[-2] >= x.shape[-1] else work.mT
    sign, isometry = (polynomials or table[work.dtype] for table in _tables(low))
    clip = partial(_clip, low=low, high=high, sign=sign, isometry=isometry)
    clipped = one_by_one(clip, tall)
    return (clipped if tall is work else clipped.mT).to(x.dtype)


def _tables(low: float) -> tuple[dict[torch.dtype, Polynomials], dict[torch.dtype, Polynomials]]:
    """For the signs, and for the polar factor of x."""
    return STEPS, STEPS_PERTURBED if low else STEPS


def _clip(x: Tensor, low: float, high: float, sign: Polynomials, isometry: Polynomials) -> Tensor:
    largest = x.abs().amax((-2, -1), keepdim=True)
    unit = x / torch.where(largest > 0, largest, 1.0)
    size = torch.linalg.matrix_norm(unit, keepdim=True)
    unit = unit / torch.where(size > 0, size, 1.0)
    # What is longer than high / eps is shortened: it loses nothing but values that are roundings.
    length = (largest / high * size).clamp(max=1 / torch.finfo(x.dtype).eps)
    o = polar(_perturbed(unit) if low else unit, polynomials=isometry, form=Standard())
    # The bound is one here: signs are taken near it, and no digits go to the size of x.
    h = _least(symmetric(o.mT @ unit) * length, 1.0, sign)
    if low:
        h = -_least(-h, -low / high, sign)
        return high * (o @ h)
    return torch.where(length <= 1, x, high * (o @ h))


def _least(h: Tensor, bound: float, sign: Polynomials) -> Tensor:
    """min(H, bound) of symmetric H: (..., n, n)."""
    eye = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
    d = bound * eye - h
    below = (eye + symmetric(polar(d, polynomials=sign, form=Standard()))) / 2
    for _ in range(2):  # the second time cuts what the first product's rounding left outside
        d = below @ d @ below
    return bound * eye - d


def _perturbed(unit: Tensor) -> Tensor:
    """unit, of Frobenius norm one or zero, plus a matrix without structure, of some roundings."""
    m, n = unit.shape[-2:]
    # Not drawn at random: the same x gives the same result in every process.
    count = torch.arange(m * n, dtype=torch.float64, device=unit.device)
    rough = count.square().cos().reshape(m, n)
    step = PERTURBATION * torch.finfo(unit.dtype).eps / torch.linalg.matrix_norm(rough)
    return unit + (step * rough).to(unit.dtype)


def _cost(
    shape: Shape,
    itemsize: int = 4,
    *,
    low: float = 0.0,
    polynomials: Polynomials | None = None,
    **options: Any,
) -> Cost:
    """One polar factor of x, one sign for each bound, and the products between them."""
    short, long = sorted(shape[-2:])
    batches, square = prod(shape[:-2]), (*shape[:-2], short, short)
    dtype = torch.float64 if itemsize == 8 else torch.float32
    signs, isometries = _tables(low)
    total = polar.cost(
        shape, itemsize, polynomials=polynomials or isometries[dtype], form=Standard()
    )
    total += _products(2, batches, long, short, itemsize)
    for _ in range(2 if low else 1):
        total += polar.cost(
            square, itemsize, polynomials=polynomials or signs[dtype], form=Standard()
        )
        total += _products(4, batches, short, short, itemsize)
    return total


def _products(count: int, batches: int, long: int, short: int, itemsize: int) -> Cost:
    """So many products of a long x short matrix with a short x short one."""
    entries = 2.0 * long * short + short**2
    return Cost(2.0 * count * batches * long * short**2, count * batches * itemsize * entries)


spectral_clip = Op("spectral_clip", spectral_clip_plain, _cost)
