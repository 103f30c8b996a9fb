"""Matrices whose columns are orthogonal and of one length, whatever that length is."""

from dataclasses import dataclass

import torch
from torch import Tensor

from modula.manifolds.base import Manifold, TangentConstraint
from modula.manifolds.checks import check_entries, check_tall
from modula.manifolds.numerics import in_working_dtype, scaled_svd, symmetric, unit


@dataclass(frozen=True, repr=False)
class UnitConditionNumber(Manifold):
    r"""{ W = s Q : Q^T Q = I, s > 0 },  W: (..., out, in) with out >= in.

        tangent at W: W^T A + A^T W is a multiple of I
        L V = sym(Q^T V) - I tr(Q^T V) / n,  n = in;  L* Y = Q (sym(Y) - I tr(Y) / n)
        to_tangent(W, V) = V - L* L V
        project(W) = polar(W) * mean of the singular values of W
        retract(W, V) = project(W + V), of second order

    All singular values are equal, so the condition number is one; the scale s is free to be
    learned. W = 0 is the limit s -> 0, hence has no nearest point: it is sent to the smallest
    normal number times the first columns of the identity.

    >>> UnitConditionNumber().project(torch.tensor([[0.0, 2.0], [4.0, 0.0]]))
    tensor([[0., 3.],
            [3., 0.]])

    Source: the nearest scaled orthonormal matrix is a Procrustes problem with a central dilation,
    Schoenemann and Carroll 1970, Fitting one matrix to another.
    """

    @property
    def ndim(self) -> int:
        return 2

    def residual(self, x: Tensor) -> Tensor:
        """|| W^T W / s^2 - I ||_F  with  s^2 = ||W||_F^2 / n"""
        (point,) = in_working_dtype(x)
        q = _unscaled(point)
        eye = torch.eye(x.shape[-1], dtype=q.dtype, device=q.device)
        return torch.linalg.matrix_norm(q.mT @ q - eye)

    def project(self, x: Tensor) -> Tensor:
        self.check_shape(x.shape)
        (point,) = in_working_dtype(x)
        u, s, vh = scaled_svd(point)
        scale = s.mean(-1)[..., None, None].clamp(min=torch.finfo(x.dtype).tiny)
        return (scale * (u @ vh)).to(x.dtype)

    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        (point,) = in_working_dtype(x)
        q = _unscaled(point)
        return TangentConstraint(lambda v: _stretch(q.mT @ v), lambda y: q @ _stretch(y))

    def check_point(self, x: Tensor) -> None:
        """Raise ValueError for a zero matrix, or what `project` makes of one."""
        if (x.abs().amax((-2, -1)) <= torch.finfo(torch.float32).tiny).any():
            raise ValueError(
                f"a zero matrix has no singular values that {self} could make equal: initialise it "
                f"with numbers, as torch.nn.init.orthogonal_ does"
            )

    def sample(self, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        """The projection of a standard normal matrix: Q is uniform (Haar)."""
        return self.project(torch.randn(shape, dtype=dtype))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        check_entries(self, shape)
        check_tall(self, shape, "orthogonal")


def _stretch(x: Tensor) -> Tensor:
    """sym(x) without its trace: how unequally it stretches."""
    growth = x.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return symmetric(x) - growth * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def _unscaled(point: Tensor) -> Tensor:
    """Q of W = s Q, which is sqrt(n) W / ||W||_F."""
    columns: int = point.shape[-1]
    return unit(point, (-2, -1)) * columns**0.5
