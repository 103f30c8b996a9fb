"""Norms of a matrix that see only its singular values."""

from dataclasses import dataclass

import torch
from torch import Tensor

from modula.norms.base import MatrixNorm, Norm
from modula.norms.numerics import largest, split_scale
from modula.norms.vector import L2


def polar_factor(x: Tensor) -> Tensor:
    """U V^T of x = U S V^T, over the singular values that are not rounding errors.

    A matrix of rank r gives a partial isometry of rank r; zero gives zero.
    """
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    noise = max(x.shape[-2:]) * torch.finfo(x.dtype).eps * s[..., :1]
    isometry: Tensor = (u * (s > noise).unsqueeze(-2)) @ vh
    return isometry


def spectral_norm(x: Tensor) -> Tensor:
    """The largest singular value."""
    unit, top = split_scale(x, 2)
    return top * largest(torch.linalg.svdvals(unit))


def nuclear_norm(x: Tensor) -> Tensor:
    """The sum of the singular values."""
    unit, top = split_scale(x, 2)
    total: Tensor = torch.linalg.svdvals(unit).sum(-1)
    return top * total


@dataclass(frozen=True)
class Nuclear(MatrixNorm):
    """||W|| = sum_i sigma_i(W), dual to Spectral.  Its duality map u_1 v_1^T has rank one.

    >>> round(Nuclear()(torch.diag(torch.tensor([3.0, 4.0]))).item(), 4)
    7.0
    """

    @property
    def of_column(self) -> Norm:
        return L2()

    def __call__(self, x: Tensor) -> Tensor:
        return nuclear_norm(self.prepare(x)).to(x.dtype)

    def dual(self, g: Tensor) -> Tensor:
        return spectral_norm(self.prepare(g)).to(g.dtype)

    def duality_map(self, g: Tensor) -> Tensor:
        unit, _ = split_scale(self.prepare(g), 2)
        u, s, vh = torch.linalg.svd(unit, full_matrices=False)
        direction: Tensor = (u[..., :, :1] * (s[..., None, :1] > 0)) @ vh[..., :1, :]
        return direction.to(g.dtype)
