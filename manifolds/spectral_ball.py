"""Matrices whose singular values stay below a bound, or between two."""

from abc import abstractmethod
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from modula.manifolds.base import TangentConstraint
from modula.manifolds.checks import are_rising, check_entries, check_radius
from modula.manifolds.numerics import (
    compose,
    in_working_dtype,
    scaled_svd,
    slack,
    symmetric,
)
from modula.manifolds.region import Region


class SingularValuesBetween(Region):
    r"""{ W : low <= sigma_i <= high for every i },  W: (..., out, in) of any aspect.

        project(W) = U clip(S, low, high) V^T   of   W = U S V^T
        K(W) = { A : sym(U_h^T A V_h) <= 0,  sym(U_l^T A V_l) >= 0 }, as quadratic forms, where
               U_h, V_h (U_l, V_l) are the singular vectors of the values at the upper (lower) bound
        L A = sym(U^T A V) in the blocks of U_h, V_h and U_l, V_l;  L* Y = U Y V^T, likewise
        to_tangent(W, A) = A - U_h sym(U_h^T A V_h)_+ V_h^T - U_l sym(U_l^T A V_l)_- V_l^T

    A value counts as at the bound from a rounding of the weight's precision away.

    Source: the derivatives of a group of equal singular values, Lewis and Sendov 2005, Nonsmooth
    analysis of singular values I and II.
    """

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest singular value allowed."""

    @property
    def ndim(self) -> int:
        return 2

    def residual(self, x: Tensor) -> Tensor:
        """Frobenius distance to the set, in upper bounds."""
        (point,) = in_working_dtype(x)
        s = scaled_svd(point)[1]
        return torch.linalg.vector_norm(s - s.clamp(*self.bounds), dim=-1) / self.bounds[1]

    def project(self, x: Tensor) -> Tensor:
        self.check_shape(x.shape)
        (point,) = in_working_dtype(x)
        u, s, vh = scaled_svd(point)
        return compose(u, s.clamp(*self.bounds), vh).to(x.dtype)

    def settled(self, x: Tensor) -> Tensor:
        (point,) = in_working_dtype(x)
        u, s, vh = scaled_svd(point.double())
        at_low, at_high = self._at_bounds(s, slack(x.dtype, point.dtype))
        s = torch.where(at_high, self.bounds[1], torch.where(at_low, self.bounds[0], s))
        return compose(u, s, vh)

    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        (point,) = in_working_dtype(x)
        u, s, vh = scaled_svd(point)
        low, high = (_block(at) for at in self._at_bounds(s, slack(x.dtype, s.dtype)))

        def growth(v: Tensor) -> Tensor:
            return symmetric(u.mT @ v @ vh.mT) * (low | high)

        def adjoint(y: Tensor) -> Tensor:
            return u @ (symmetric(y) * (low | high)) @ vh

        def outwards(v: Tensor) -> Tensor:
            form = growth(v)
            out = _positive_part(form * high)
            if self.bounds[0] > 0:
                out = out - _positive_part(-form * low)
            return u @ out @ vh

        return TangentConstraint(growth, adjoint, nearest=outwards)

    def _at_bounds(self, s: Tensor, near: float) -> tuple[Tensor, Tensor]:
        """Which singular values are at the lower, if it is not 0, and at the upper bound."""
        low, high = self.bounds
        return (s <= low * (1 + near)) & (low > 0), s >= high * (1 - near)

    def sample(self, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        """Singular vectors uniform (Haar), singular values uniform between the bounds."""
        self.check_shape(shape)
        u, s, vh = torch.linalg.svd(torch.randn(shape, dtype=dtype), full_matrices=False)
        low, high = self.bounds
        return compose(u, low + (high - low) * torch.rand_like(s), vh)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        check_entries(self, shape)


@dataclass(frozen=True, repr=False)
class SpectralBall(SingularValuesBetween):
    r"""{ W : sigma_max(W) <= radius }.

    >>> SpectralBall().project(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
    tensor([[1.0000, 0.0000],
            [0.0000, 0.5000]])

    Source: Lewis and Sendov 2005, Nonsmooth analysis of singular values I and II.
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        check_radius("SpectralBall", self.radius)

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, self.radius


@dataclass(frozen=True, repr=False)
class SpectralBand(SingularValuesBetween):
    r"""{ W : low <= sigma_i(W) <= high }: no direction is stretched or forgotten too much.

    Not convex: where several singular values vanish, several points are equally near, and the
    SVD's completion of the singular vectors decides.

    >>> SpectralBand(1.0, 2.0).project(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
    tensor([[2., 0.],
            [0., 1.]])

    Source: Lewis and Sendov 2005, Nonsmooth analysis of singular values I and II.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not are_rising(0, self.low, self.high, inf):
            raise ValueError(
                f"SpectralBand needs 0 < low < high, got {self.low!r} and {self.high!r}: without a "
                f"lower bound it is SpectralBall(high), with equal ones Stiefel(high)"
            )

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high


def _block(at_bound: Tensor) -> Tensor:
    """Where a form pairs two of the singular values at one bound."""
    return at_bound[..., :, None] & at_bound[..., None, :]


def _positive_part(form: Tensor) -> Tensor:
    """The positive semidefinite part of a symmetric form."""
    values, basis = torch.linalg.eigh(form)
    return compose(basis, values.clamp(min=0), basis.mT)
