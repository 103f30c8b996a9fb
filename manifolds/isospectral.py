"""Matrices with given singular values."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from modula.manifolds.base import Manifold, TangentConstraint
from modula.manifolds.checks import are_rising, check_entries
from modula.manifolds.numerics import (
    compose,
    in_working_dtype,
    scaled_svd,
    slack,
    symmetric,
)
from modula.manifolds.rotations import Rotations


@dataclass(frozen=True, repr=False)
class Isospectral(Manifold):
    r"""{ R W0 P^T : R, P orthogonal },  W: (..., out, in): all with the singular values of W0.

        tangent at W: Omega_L W + W Omega_R,  Omega_L and Omega_R skew
        L V = (1 - P_L) V (1 - P_R) + sum_g U_g sym(U_g^T V V_g) V_g^T = L* V
        to_tangent(W, V) = V - L V

    over the groups g of equal singular values > 0; P_L = U U^T and P_R project on their vectors.

    spectrum   the singular values, falling; those left out are 0.  Without one, a weight keeps the
               singular values that it has: every matrix is on a manifold of its own
    rotations  how steps are taken: None along tangents, in a norm of W, and back by
               retract(W, V) = the point nearest to W + V; else by rotating rows and columns, in a
               norm of the rotations (POET)

    >>> Isospectral((2.0,)).project(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    tensor([[2., 0.],
            [0., 0.]])
    >>> Isospectral().retract(torch.eye(2), torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    tensor([[ 0.7071,  0.7071],
            [-0.7071,  0.7071]])

    Source: Qiu et al. 2025, arXiv:2506.08001 (POET); Helmke and Moore 1994, Optimization and
    Dynamical Systems, chapter 3, for the manifold.
    """

    spectrum: tuple[float, ...] | None = None
    rotations: Rotations | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rotations, Rotations | None):
            raise ValueError(f"Isospectral needs Rotations() or None, got {self.rotations!r}")
        if self.spectrum is None:
            return
        numbers = isinstance(self.spectrum, tuple) and all(
            are_rising(value, inf) for value in self.spectrum
        )
        falling = sorted(self.spectrum, reverse=True) if numbers else []
        fits = falling and 0 < falling[0] and falling[-1] >= 0
        if not fits or list(self.spectrum) != falling:
            raise ValueError(
                f"Isospectral needs a tuple of finite singular values in falling order, the first "
                f"above 0, got {self.spectrum!r}: torch.linalg.svdvals gives them so"
            )

    @property
    def ndim(self) -> int:
        return 2

    def residual(self, x: Tensor) -> Tensor:
        """Frobenius distance, relative to the norm of the spectrum; 0 without one"""
        (point,) = in_working_dtype(x)
        if self.spectrum is None:
            return point.new_zeros(x.shape[:-2])
        s = scaled_svd(point)[1]
        values = self._values(s)
        off, size = (torch.linalg.vector_norm(y, dim=-1) for y in (s - values, values))
        return off / size

    def project(self, x: Tensor) -> Tensor:
        self.check_shape(x.shape)
        return x if self.spectrum is None else self.retract(x, torch.zeros_like(x))

    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        (point,) = in_working_dtype(x)
        u, s, vh = scaled_svd(point)
        s = self._values(s)
        near = slack(x.dtype, s.dtype) * s[..., :1]
        present = s > near
        left, right = u * present[..., None, :], vh * present[..., :, None]
        equal = (s[..., :, None] - s[..., None, :]).abs() <= near[..., None]

        def normal_part(v: Tensor) -> Tensor:
            inner = left.mT @ v
            rest = v - left @ inner
            nowhere = rest - rest @ right.mT @ right
            stretch = symmetric(inner @ right.mT) * equal
            return nowhere + left @ stretch @ right

        return TangentConstraint(normal_part, normal_part, nearest=normal_part)

    def retract(self, x: Tensor, v: Tensor) -> Tensor:
        point, vector = in_working_dtype(x, v)
        values = self._values(scaled_svd(point)[1])
        u, _, vh = scaled_svd(point + vector)
        return compose(u, values, vh).to(x.dtype)

    def check_point(self, x: Tensor) -> None:
        """Raise ValueError for a zero matrix without a spectrum: no rotation moves it."""
        if self.spectrum is None and (x.abs().amax((-2, -1)) == 0).any():
            raise ValueError(
                f"a zero matrix on {self} keeps its singular values, which are all zero, and so "
                f"never moves: initialise it with numbers, or give a spectrum"
            )

    def sample(self, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        """Singular vectors uniform (Haar); without a spectrum, a standard normal matrix."""
        return self.project(torch.randn(shape, dtype=dtype))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        check_entries(self, shape)
        rank = min(shape[-2:])
        if self.spectrum is not None and len(self.spectrum) > rank:
            raise ValueError(
                f"{self} has no point of shape {tuple(shape)}, whose matrices have {rank} singular "
                f"values: give that many, or fewer"
            )

    def _values(self, s: Tensor) -> Tensor:
        """The declared singular values, in the place of those found; these, if none are."""
        if self.spectrum is None:
            return s
        values = s.new_zeros(s.shape[-1])
        values[: len(self.spectrum)] = s.new_tensor(self.spectrum)
        return values.expand(s.shape)
