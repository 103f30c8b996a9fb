"""Functions of the singular values of a matrix, and the base class of norms that see only these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

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


def on_singular_values(x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """U diag(f(s)) V^T of x = U diag(s) V^T, and x to the bit where f changes nothing."""
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    new = f(s)
    same = (new == s).all(-1)[..., None, None]
    return torch.where(same, x, (u * new.unsqueeze(-2)) @ vh)


class SingularValueNorm(MatrixNorm, ABC):
    """A norm of the singular values s(W) = (s_1 >= s_2 >= ... >= 0) of W: (..., out, in).

    A subclass states its formulas on s: (..., rank), sorted, for a W whose largest |entry| is 1.
    Source: von Neumann 1937; Lewis 1995, "The convex analysis of unitarily invariant norms".
    """

    @property
    def of_column(self) -> Norm:
        return L2()

    def prepare(self, x: Tensor) -> Tensor:
        prepared = super().prepare(x)
        self.check_shape(tuple(x.shape))
        return prepared

    def __call__(self, x: Tensor) -> Tensor:
        unit, top = split_scale(self.prepare(x), 2)
        return (top * self._value(torch.linalg.svdvals(unit))).to(x.dtype)

    def dual(self, g: Tensor) -> Tensor:
        return self.dual_norm()(g)

    def duality_map(self, g: Tensor) -> Tensor:
        unit, _ = split_scale(self.prepare(g), 2)
        u, s, vh = torch.linalg.svd(unit, full_matrices=False)
        noise = max(g.shape[-2:]) * torch.finfo(s.dtype).eps * s[..., :1]
        s = torch.where(s <= noise, torch.zeros_like(s), s)
        direction: Tensor = (u * self._steepest(s).unsqueeze(-2)) @ vh
        return direction.to(g.dtype)

    def _nearest(self, unit: Tensor, radius: Tensor) -> Tensor:
        return on_singular_values(unit, lambda s: self._clipped(s, radius))

    def _shrunk(self, unit: Tensor, step: Tensor) -> Tensor:
        return on_singular_values(unit, lambda s: self._softened(s, step))

    def _softened(self, s: Tensor, step: Tensor) -> Tensor:
        """Moreau's identity; at most one of a norm and its dual can take it from the other."""
        return s - self.dual_norm()._clipped(s, step)

    @abstractmethod
    def dual_norm(self) -> SingularValueNorm:
        """The norm whose value is this one's dual."""

    @abstractmethod
    def _value(self, s: Tensor) -> Tensor: ...

    @abstractmethod
    def _steepest(self, s: Tensor) -> Tensor: ...

    @abstractmethod
    def _clipped(self, s: Tensor, radius: Tensor) -> Tensor: ...
