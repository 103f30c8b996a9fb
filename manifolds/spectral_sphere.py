"""Matrices of one spectral norm."""

from dataclasses import dataclass

import torch
from torch import Tensor

from modula.manifolds.base import Manifold, TangentConstraint, along
from modula.manifolds.checks import check_entries, check_radius
from modula.manifolds.numerics import compose, in_working_dtype, scaled_svd


@dataclass(frozen=True, repr=False)
class SpectralSphere(Manifold):
    r"""{ W : sigma_max(W) = radius },  W: (..., out, in) of any aspect.

        tangent at W: <u1 v1^T, A> = 0,  with u1, v1 the top singular vectors of W
        L V = <u1 v1^T, V>,  L* y = y u1 v1^T
        to_tangent(W, V) = V - u1 v1^T <u1 v1^T, V>
        project(W): singular values above the radius down to it; if none is, the largest up to it
        retract(W, V) = radius (W + V) / sigma_max(W + V)

    Smooth only where sigma_max is simple. Where it is repeated (after a projection that lowered
    several singular values, say) there is a cone instead of a tangent space: to_tangent then uses
    the pair that the SVD names first, and a step can raise sigma_max to first order, which the
    retraction scales away again. Likewise several points are equally near to a matrix whose
    largest singular value is repeated below the radius, such as 0: the SVD's first pair is raised.

    >>> SpectralSphere().project(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
    tensor([[1.0000, 0.0000],
            [0.0000, 0.5000]])

    Source: the projection from Weyl's inequalities for singular values; as the home of a weight,
    the Spectral Sphere Optimizer, github.com/Unakar/Spectral-Sphere-Optimizer.
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        check_radius("SpectralSphere", self.radius)

    @property
    def ndim(self) -> int:
        return 2

    def residual(self, x: Tensor) -> Tensor:
        """| sigma_max / radius - 1 |: the distance, in radii"""
        (point,) = in_working_dtype(x)
        return (scaled_svd(point)[1][..., 0] / self.radius - 1).abs()

    def project(self, x: Tensor) -> Tensor:
        self.check_shape(x.shape)
        (point,) = in_working_dtype(x)
        u, s, vh = scaled_svd(point)
        first = torch.arange(s.shape[-1], device=s.device) == 0
        s = torch.where(first, self.radius, s.clamp(max=self.radius))
        return compose(u, s, vh).to(x.dtype)

    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        (point,) = in_working_dtype(x)
        u, _, vh = scaled_svd(point)
        return along(u[..., :, :1] @ vh[..., :1, :], (-2, -1))

    def retract(self, x: Tensor, v: Tensor) -> Tensor:
        point, vector = in_working_dtype(x, v)
        u, s, vh = scaled_svd(point + vector)
        top = s[..., :1]
        # W + V = 0 is no step along a tangent; it lands where project would put it.
        flat = torch.where(top == 0, torch.arange(s.shape[-1], device=s.device) == 0, s / top)
        return (self.radius * (u * flat[..., None, :]) @ vh).to(x.dtype)

    def sample(self, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        """A standard normal matrix, rescaled: its singular vectors are uniform (Haar)."""
        self.check_shape(shape)
        normal = torch.randn(shape, dtype=dtype)
        return self.retract(normal, torch.zeros_like(normal))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        check_entries(self, shape)
