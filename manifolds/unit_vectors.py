"""The base class of spheres and oblique manifolds: vectors of one length."""

from abc import abstractmethod

import torch
from torch import Tensor

from modula.manifolds.base import Manifold, TangentConstraint, along
from modula.manifolds.numerics import in_working_dtype, length, unit


class UnitVectors(Manifold):
    r"""Every vector w along the dims `dims` has ||w||_2 = radius.

    L v = <w, v> / ||w||,  L* y = y w / ||w||,  one number a vector
    to_tangent(w, v) = v - w <w, v> / <w, w>
    retract(w, v) = radius (w + v) / ||w + v||
    """

    radius: float

    @property
    @abstractmethod
    def dims(self) -> tuple[int, ...]:
        """The trailing dims, counted from the back, that one vector runs along."""

    def residual(self, x: Tensor) -> Tensor:
        """Root of the sum over vectors of (||w|| / radius - 1)^2: the distance, in radii."""
        (point,) = in_working_dtype(x)
        misfit = length(point, self.dims) / self.radius - 1
        return torch.linalg.vector_norm(misfit, dim=tuple(range(-self.ndim, 0)))

    def project(self, x: Tensor) -> Tensor:
        self.check_shape(x.shape)
        (point,) = in_working_dtype(x)
        return (self.radius * unit(point, self.dims)).to(x.dtype)

    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        (point,) = in_working_dtype(x)
        return along(unit(point, self.dims), self.dims)

    def sample(self, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        """Uniform: every vector is the direction of a standard normal one."""
        return self.project(torch.randn(shape, dtype=dtype))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        if any(shape[d] == 0 for d in self.dims):
            raise ValueError(
                f"{self} has no point of shape {tuple(shape)}: a vector without entries has no "
                f"length, so give every dim at least one"
            )
