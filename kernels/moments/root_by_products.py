r"""Inverse roots by matrix products alone: no decomposition, and no wait for the device."""

from functools import lru_cache
from itertools import count
from math import log2

import torch
from torch import Tensor

from modula.kernels.moments.root import (
    SMALLEST,
    inverse_root_plain,
    of_blocks,
    unit_factor,
    unit_scale,
)
from modula.kernels.precision import full_precision
from modula.kernels.spectral.bound import spectral_bound
from modula.kernels.spectral.polynomials import PolarExpress, Polynomials
from modula.kernels.spectral.products import multiply_add, symmetric

SAFETY = 1.01  # rounding can push an eigenvalue above its bound
SQUARINGS = 2  # the bound is at most d^(1/16) too large: 1.5 times for a side of 768
ACCEPTED = 0.5  # ||Z A Z - I||_F / sqrt(d) above which Z is no root; well-behaved ones leave 0.002


def square_roots(a: Tensor, polynomials: Polynomials) -> tuple[Tensor, Tensor]:
    """A^(1/2) and A^(-1/2), for symmetric A with eigenvalues in (0, 1]: (d, d) or (batch, d, d).

        Y = A, Z = I, and once per polynomial:  M = Z Y,  Y <- Y h(M),  Z <- h(M) Z

    h(M) = a I + b M + c M^2 belongs to p(s) = s h(s^2): s^2, the eigenvalues of M, go to one where
    p takes s there.  In exact arithmetic all of these matrices are symmetric and commute.  In
    rounded arithmetic Y and Z stay coupled in this order only, and while no product is made
    symmetric: else they drift apart, in float32 at a condition number of 1e4 to residuals above 10.

    Source: Higham 2008, "Functions of Matrices", chapter 6; Amsel et al. 2025, arXiv:2505.16932.
    """
    (linear, cubic, quintic), *rest = polynomials.terms
    even = multiply_add(a, a, add=a, beta=cubic, alpha=quintic)
    y = multiply_add(a, even, add=a, beta=linear)
    z = even + linear * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    for linear, cubic, quintic in rest:
        m = multiply_add(z, y)
        even = multiply_add(m, m, add=m, beta=cubic, alpha=quintic)
        y = multiply_add(y, even, add=y, beta=linear)
        z = multiply_add(even, z, add=z, beta=linear)
    return symmetric(y), symmetric(z)


@lru_cache(maxsize=32)
def fewest(lower: float, roundoff: float) -> Polynomials:
    """The fewest polynomials that send [lower, 1] to one, up to a few roundings."""
    for steps in count(1):
        polynomials = PolarExpress(steps, lower, safety=SAFETY)
        if abs(polynomials(lower / SAFETY) - 1) <= 4 * roundoff:
            return polynomials
    raise AssertionError("a composition of them converges")


def inverse_root_by_products(
    factor: Tensor,
    previous: Tensor,
    *,
    power: float,
    damping: float | Tensor,
    trace_power: float = 0.0,
) -> Tensor:
    """inverse_root_plain by coupled iterations, for the powers 1, 1/2, 1/4, ...; others go there.

    What is added to S is at least SMALLEST roundings of its largest eigenvalue.  A power 1/4 is
    the root of a root, and a power 1 the square of one.  Where S is not finite, has no positive
    eigenvalue, or what comes out is no root of it, the previous root stays.

    factor, previous: (..., d, d); damping: a number or (..., 1)
    """
    halvings = -log2(power)
    if halvings < 0 or halvings % 1:
        return inverse_root_plain(
            factor, previous, power=power, damping=damping, trace_power=trace_power
        )
    with full_precision():
        size, usable, unit = unit_factor(factor)
        least = SMALLEST * torch.finfo(factor.dtype).eps
        damped, bound = _damped(unit, damping, least)
        # Half of it, as rounding may have left S itself with eigenvalues a little below zero.
        flat = damped.reshape(-1, *damped.shape[-2:])
        root = _root(flat, int(halvings), least / 2).reshape(damped.shape)
    scale = unit_scale(size, factor.shape[-1], power, trace_power) * bound**-power
    out = root * scale.unsqueeze(-1)
    usable = usable & out.isfinite().all((-2, -1))
    return torch.where(usable[..., None, None], out, previous)


def inverse_root_blocks_by_products(factor: Tensor, previous: Tensor, **options: float) -> Tensor:
    """inverse_root_by_products of blocks on a diagonal: (..., count, b, b)."""
    return of_blocks(inverse_root_by_products, factor, previous, **options)


def _damped(unit: Tensor, damping: float | Tensor, least: float) -> tuple[Tensor, Tensor]:
    """(S + shift I) / bound with eigenvalues in [least, 1], and the bound: (..., d, d), (..., 1)"""
    unit = symmetric(unit)
    largest = spectral_bound(unit, squarings=SQUARINGS).unsqueeze(-1)
    shift = torch.maximum(least * largest, torch.zeros_like(largest) + damping)
    bound = largest + shift
    return (unit + torch.diag_embed(shift.expand(unit.shape[:-1]))) / bound.unsqueeze(-1), bound


def _root(a: Tensor, halvings: int, least: float) -> Tensor:
    """A^(-1 / 2^halvings) for eigenvalues in [least, 1]; NaN where the iteration went astray."""
    y, z, good = a, a, torch.ones_like(a[..., :1, :1], dtype=torch.bool)
    for _ in range(max(halvings, 1)):
        a, least = y, least**0.5
        y, z = square_roots(a, fewest(least, torch.finfo(a.dtype).eps))
        good = good & (_error(a, z) <= ACCEPTED)
    return torch.where(good, z if halvings else z @ z, torch.nan)


def _error(a: Tensor, z: Tensor) -> Tensor:
    """||Z A Z - I||_F / sqrt(d): (..., d, d) -> (..., 1, 1)"""
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return torch.linalg.matrix_norm(z @ (a @ z) - eye, keepdim=True) / a.shape[-1] ** 0.5
