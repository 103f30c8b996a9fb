r"""Inverse roots (S + damping)^-p of averaged second moments; where S has none, the last stays."""

from collections.abc import Callable

import torch
from torch import Tensor

from modula.kernels.moments.second_moment import mean_eigenvalue
from modula.kernels.op import Cost, Op, Shape
from modula.kernels.spectral.products import symmetric

SMALLEST = 16.0  # eigenvalues below so many roundings of the largest are rounding themselves

Roots = Callable[[Tensor, Tensor], Tensor]  # of damped eigenvalues over their mean, and the basis


def inverse_root_plain(
    factor: Tensor,
    previous: Tensor,
    *,
    power: float,
    damping: float | Tensor,
    trace_power: float = 0.0,
    roots: Roots | None = None,
) -> Tensor:
    """(S / trace(S)^trace_power + damping mean)^-power, symmetric: (..., d, d) -> (..., d, d).

    mean: the mean eigenvalue, so that damping, a number or (..., 1), has no unit.  Where S is not
    finite, has no positive eigenvalue or cannot be decomposed, in float64 neither, the previous
    root stays.  Eigenvalues below SMALLEST roundings of the largest count as that: 1.9e-6 of it in
    float32, 3.6e-15 in float64.

    roots  function of the eigenvalues that stands in for their power -power
    """
    size, usable, unit = unit_factor(factor)
    values, basis = eigen(unit)
    # Rounding leaves eigenvalues below zero, whose powers would be NaN.
    floor = SMALLEST * torch.finfo(factor.dtype).eps * values[..., -1:]
    damped = torch.maximum(values, floor) + damping
    inverse = damped**-power if roots is None else roots(damped, basis)
    out = (basis * inverse.unsqueeze(-2)) @ basis.mT
    out = symmetric(out) * unit_scale(size, factor.shape[-1], power, trace_power)[..., None]
    usable = usable & out.isfinite().all((-2, -1))
    return torch.where(usable[..., None, None], out, previous)


def unit_factor(factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean eigenvalue, whether S has a root, and S / mean eigenvalue, or I where it has none.

    (..., d, d) -> (...), (...), (..., d, d)
    """
    # Of unit size first: powers of very small or large eigenvalues leave the range of float32.
    size = mean_eigenvalue(factor, 2)
    usable = size.isfinite() & (size > 0) & factor.isfinite().all((-2, -1))
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return size, usable, torch.where(usable[..., None, None], factor / size[..., None, None], eye)


def unit_scale(size: Tensor, d: int, power: float, trace_power: float) -> Tensor:
    """What the root of S / mean eigenvalue is multiplied by, (...) -> (..., 1)."""
    safe = torch.where(size > 0, size, 1.0)
    return (safe / (safe * d) ** trace_power).unsqueeze(-1) ** -power


def eigen(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and basis of symmetric matrices; in float64 where float32 does not converge."""
    single = symmetric(x)
    for precise in (single, single.double()):
        try:
            values, basis = torch.linalg.eigh(precise)
            return values.to(x.dtype), basis.to(x.dtype)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # LinAlgError is one, and cusolver raises others
            continue
    return torch.full_like(x[..., 0], torch.nan), torch.full_like(x, torch.nan)


def of_blocks(
    root: Callable[..., Tensor],
    factor: Tensor,
    previous: Tensor,
    *,
    power: float,
    damping: float,
    trace_power: float = 0.0,
) -> Tensor:
    """Inverse roots of the blocks on a diagonal, each by `root`: (..., count, b, b).

    Each is damped in units of its own; trace(S) is that of all of them.
    """
    trace = factor.diagonal(dim1=-2, dim2=-1).sum((-2, -1))
    scale = torch.where(trace > 0, trace, 1.0)[..., None, None, None] ** (trace_power * power)
    return scale * root(factor, previous / scale, power=power, damping=damping)


def inverse_root_blocks_plain(factor: Tensor, previous: Tensor, **options: float) -> Tensor:
    """inverse_root_plain of blocks on a diagonal."""
    return of_blocks(inverse_root_plain, factor, previous, **options)


def inverse_root_diagonal_plain(
    factor: Tensor,
    previous: Tensor,
    *,
    power: float,
    damping: float,
    trace_power: float = 0.0,
    roots: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The same for diagonals: (..., d) -> (..., d)."""
    size = mean_eigenvalue(factor, 1)
    usable = (size.isfinite() & (size > 0)).unsqueeze(-1) & factor.isfinite()
    unit = torch.where(usable, factor / size.unsqueeze(-1), 1.0)
    floor = SMALLEST * torch.finfo(factor.dtype).eps
    damped = unit.clamp(min=0) + max(damping, floor)
    inverse = damped**-power if roots is None else roots(damped)
    out = inverse * unit_scale(size, factor.shape[-1], power, trace_power)
    return torch.where(usable, out, previous)


def _cost(shape: Shape, itemsize: int = 4, **options: object) -> Cost:
    *batch, d, _ = shape
    many = 1
    for size in batch:
        many *= size
    # An eigendecomposition takes nominally 9 d^3, and the product with its basis 2 d^3.
    return Cost(11.0 * many * d**3, 4.0 * itemsize * many * d * d)


def _diagonal_cost(shape: Shape, itemsize: int = 4, **options: object) -> Cost:
    return Cost(0.0, 0.0)


inverse_root = Op(
    "inverse_root",
    inverse_root_plain,
    _cost,
    fused_at="modula.kernels.moments.root_by_products:inverse_root_by_products",
)
inverse_root_blocks = Op(
    "inverse_root",
    inverse_root_blocks_plain,
    _cost,
    fused_at="modula.kernels.moments.root_by_products:inverse_root_blocks_by_products",
)
inverse_root_diagonal = Op("inverse_root", inverse_root_diagonal_plain, _diagonal_cost)
