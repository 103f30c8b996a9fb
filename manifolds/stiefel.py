"""The Stiefel manifold: matrices whose columns are orthogonal and of one length."""

from dataclasses import dataclass

import torch
from torch import Tensor

from modula.manifolds.base import Manifold, TangentConstraint
from modula.manifolds.checks import check_radius, check_tall
from modula.manifolds.numerics import in_working_dtype, symmetric


@dataclass(frozen=True, repr=False)
class Stiefel(Manifold):
    r"""{ W : W^T W = radius^2 I },  W: (..., out, in) with out >= in.

        L V = sym(W^T V) / radius,  L* Y = W sym(Y) / radius,  Y: (in, in)
        to_tangent(W, V) = V - W (W^T V + V^T W) / (2 radius^2)
        retract(W, V) = radius * polar(W + V)     (by products: duality/rules/retraction.py)

    A square W is an orthogonal matrix. Where W is rank deficient several points are equally near;
    the SVD's completion of the singular vectors decides, which for W = 0 gives the first columns
    of the identity.

    >>> Stiefel().project(torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
    tensor([[0., 1.],
            [1., 0.]])

    Source: Absil, Mahony, Sepulchre, Optimization Algorithms on Matrix Manifolds, 2008.
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        check_radius("Stiefel", self.radius)

    @property
    def ndim(self) -> int:
        return 2

    def residual(self, x: Tensor) -> Tensor:
        """|| W^T W / radius^2 - I ||_F"""
        (point,) = in_working_dtype(x)
        point = point / self.radius
        eye = torch.eye(x.shape[-1], dtype=point.dtype, device=x.device)
        return torch.linalg.matrix_norm(point.mT @ point - eye)

    def project(self, x: Tensor) -> Tensor:
        self.check_shape(x.shape)
        (point,) = in_working_dtype(x)
        u, _, vh = torch.linalg.svd(point, full_matrices=False)
        return (self.radius * (u @ vh)).to(x.dtype)

    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        (point,) = in_working_dtype(x)
        q = point / self.radius
        return TangentConstraint(lambda v: symmetric(q.mT @ v), lambda y: q @ symmetric(y))

    def sample(self, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        """Uniform (Haar): the polar factor of a standard normal matrix."""
        return self.project(torch.randn(shape, dtype=dtype))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        check_tall(self, shape, "orthonormal")
