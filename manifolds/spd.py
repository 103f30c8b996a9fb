"""Symmetric positive definite matrices."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from modula.manifolds.base import Manifold, TangentConstraint
from modula.manifolds.checks import are_rising
from modula.manifolds.numerics import compose_symmetric, in_working_dtype, skew, symmetric


@dataclass(frozen=True, repr=False)
class SPD(Manifold):
    r"""{ W = W^T : every eigenvalue > 0 },  W: (..., n, n).

        L V = (V - V^T) / 2 = L* V
        to_tangent(W, V) = (V + V^T) / 2
        project(W) = U max(Lambda, floor) U^T  of the symmetric part U Lambda U^T of W
        retract(W, V) = W + V + V W^-1 V / 2

    The set is open, so nothing in it is nearest to a matrix outside: `floor` is the smallest
    eigenvalue that project gives. The retraction agrees to second order with the geodesic
    W exp(W^-1 V) of the affine-invariant metric, and is at least W / 2 for every symmetric V,
    however long; it lifts the eigenvalues of W to the floor first. Where V is much longer than the
    small eigenvalues of W it lands far away: a step of given length in a norm is better projected.

    >>> SPD(floor=0.5).project(torch.tensor([[2.0, 4.0], [-4.0, -1.0]]))
    tensor([[2.0000, 0.0000],
            [0.0000, 0.5000]])

    Source: Jeuris, Vandebril, Vandereycken 2012, A survey and comparison of contemporary algorithms
    for computing the matrix geometric mean; the projection: Higham 1988, Computing a nearest
    symmetric positive semidefinite matrix.
    """

    floor: float = 1e-6

    def __post_init__(self) -> None:
        if not are_rising(0, self.floor, inf):
            raise ValueError(f"SPD needs a positive, finite floor, got {self.floor!r}: use 1e-6")

    @property
    def ndim(self) -> int:
        return 2

    def residual(self, x: Tensor) -> Tensor:
        """Distance to the closest symmetric matrix without negative eigenvalues, over ||x||_F."""
        (point,) = in_working_dtype(x)
        largest = point.abs().amax((-2, -1), keepdim=True)
        point = torch.where(largest == 0, point, point / largest)
        negative = torch.linalg.eigvalsh(symmetric(point)).clamp(max=0)
        asymmetry = torch.linalg.matrix_norm(skew(point))
        size = torch.linalg.matrix_norm(point)
        distance = torch.hypot(asymmetry, torch.linalg.vector_norm(negative, dim=-1))
        return torch.where(size == 0, distance, distance / size)

    def project(self, x: Tensor) -> Tensor:
        self.check_shape(x.shape)
        (point,) = in_working_dtype(x)
        values, basis = torch.linalg.eigh(symmetric(point))
        return compose_symmetric(values.clamp(min=self.floor), basis).to(x.dtype)

    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        return TangentConstraint(skew, skew, nearest=skew)

    def retract(self, x: Tensor, v: Tensor) -> Tensor:
        point, vector = in_working_dtype(x, v)
        vector = symmetric(vector)
        values, basis = torch.linalg.eigh(symmetric(point))
        lifted = values.clamp(min=self.floor)
        point = symmetric(point) + compose_symmetric(lifted - values, basis)
        root = lifted[..., None].rsqrt() * (basis.mT @ vector)  # root^T root = V W^-1 V
        return (point + vector + root.mT @ root / 2).to(x.dtype)

    def sample(self, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        """A Wishart matrix: Z Z^T / n of a standard normal Z."""
        self.check_shape(shape)
        z = torch.randn(shape, dtype=dtype)
        return self.project(z @ z.mT / shape[-1])

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        if shape[-2] != shape[-1] or shape[-1] == 0:
            raise ValueError(
                f"{self} needs square matrices with entries, got shape {tuple(shape)}: a matrix W "
                f"of any shape is made symmetric by W^T W"
            )
