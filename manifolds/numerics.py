"""Arithmetic that stays right at every scale: parts of matrices, unit vectors, decompositions."""

import torch
from torch import Tensor


def in_working_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Half precision as float32, anything wider as it is."""
    for x in tensors:
        if not x.is_floating_point():
            raise ValueError(
                f"a point of a manifold is a floating-point tensor, got {x.dtype}: call .float()"
            )
    return tuple(x.float() if x.dtype.itemsize < 4 else x for x in tensors)


def ratio(x: Tensor, y: Tensor) -> Tensor:
    """x / y, and 0 where y is 0."""
    return torch.where(y == 0, torch.zeros_like(x), x / y)


def symmetric(x: Tensor) -> Tensor:
    """sym(x) = (x + x^T) / 2"""
    return (x + x.mT) / 2


def skew(x: Tensor) -> Tensor:
    """skew(x) = (x - x^T) / 2"""
    return (x - x.mT) / 2


def unit(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x / ||x||_2 over `dims`; a zero vector becomes the first basis vector.

    The largest entry is divided out first, so that no square over- or underflows. A vector with a
    NaN or an infinity stays one with NaN: nothing that went wrong before is hidden here.
    """
    largest = x.abs().amax(dims, keepdim=True)
    scaled = torch.where(largest == 0, _first_basis_vector(x, dims), x / largest)
    return scaled / scaled.square().sum(dims, keepdim=True).sqrt()


def length(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """||x||_2 over `dims`, which are kept; no square over- or underflows."""
    return (x * unit(x, dims)).sum(dims, keepdim=True)


def scaled_svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V^T of x: (..., m, n) with its largest entry divided out first, and put back into S.

    >>> scaled_svd(torch.tensor([[1e-30, 0.0], [0.0, 2e-30]]))[1]
    tensor([2.0000e-30, 1.0000e-30])
    """
    largest = x.abs().amax((-2, -1), keepdim=True)
    u, s, vh = torch.linalg.svd(torch.where(largest == 0, x, x / largest), full_matrices=False)
    return u, s * largest[..., 0], vh


def compose(u: Tensor, s: Tensor, vh: Tensor) -> Tensor:
    """U diag(s) V^T"""
    return (u * s[..., None, :]) @ vh


def compose_symmetric(values: Tensor, basis: Tensor) -> Tensor:
    """Q diag(values) Q^T, symmetric to the bit."""
    return symmetric(compose(basis, values, basis.mT))


def slack(stored: torch.dtype, computed: torch.dtype) -> float:
    """How far from a bound, relative to it, a weight that stands at the bound may seem to be."""
    return max(torch.finfo(stored).eps, torch.finfo(computed).eps ** 0.5)


def _first_basis_vector(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    first = torch.ones((), dtype=x.dtype, device=x.device)
    for d in dims:
        at_zero = torch.arange(x.shape[d], device=x.device) == 0
        first = first * at_zero.reshape(-1, *(1,) * (-d - 1))
    return first
