"""Euclidean space: no constraint."""

from dataclasses import dataclass

import torch
from torch import Tensor

from modula.manifolds.base import Manifold, TangentConstraint


@dataclass(frozen=True, repr=False)
class Euclidean(Manifold):
    """All tensors: no constraint, and every vector is tangent.

    residual(x) is a single zero, since a shape without constraint has no batch to tell apart.

    >>> Euclidean().retract(torch.tensor([1.0]), torch.tensor([2.0]))
    tensor([3.])
    """

    @property
    def ndim(self) -> int:
        return 0

    def residual(self, x: Tensor) -> Tensor:
        return x.new_zeros(())

    def project(self, x: Tensor) -> Tensor:
        return x

    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        """L = 0"""
        return TangentConstraint(torch.zeros_like, torch.zeros_like, nearest=torch.zeros_like)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def retract(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v

    def sample(self, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal entries: rotation invariant, since nothing is uniform on all of space."""
        return torch.randn(shape, dtype=dtype)
