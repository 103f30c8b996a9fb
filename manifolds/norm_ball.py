"""The ball of any norm."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from modula.manifolds.base import TangentConstraint
from modula.manifolds.checks import check_radius
from modula.manifolds.numerics import in_working_dtype, slack
from modula.manifolds.region import Region

STEP = 6e-6  # in radii: eps^(1/3), where the curvature t^2 and the rounding eps / t are equal


class Measure(Protocol):
    """What a ball asks of its norm; every modula.norms.Norm that has a projection will do."""

    @property
    def ndim(self) -> int:
        """How many trailing dims are measured together."""

    def __call__(self, x: Tensor) -> Tensor:
        """||x||"""

    def project(self, x: Tensor, radius: float = 1.0) -> Tensor:
        """The point nearest to x of {||y|| <= radius}."""


@dataclass(frozen=True, repr=False)
class NormBall(Region):
    r"""{ W : ||W|| <= radius }  for a norm that has a projection on its ball.

        to_tangent(W, V) = lim (project(W + t V) - W) / t   for t -> 0 from above

    The limit is taken from two steps, t and t / 2, extrapolated, in float64: right to about
    1e-9, and less where the ball bends sharply, as that of Nuclear does.  No L is known apart
    from it: the tangent constraint is L = L* = 1, with the part of V that leads outwards.

    Weight decay of rate 1 / radius holds a weight in this ball without ever meeting the boundary:
    (1 - eta / radius) W - eta D, with ||D|| <= 1, lies in it for W in it and 0 <= eta <= radius.

    >>> from modula.norms import Max
    >>> NormBall(Max(), 2.0).project(torch.tensor([3.0, -1.0]))
    tensor([ 2., -1.])

    Source: Zarantonello 1971, Projections on convex sets in Hilbert space and spectral theory, for
    the limit; Pethick et al. 2025, arXiv:2502.07529, for the ball in which weight decay holds.
    """

    norm: Measure
    radius: float = 1.0

    def __post_init__(self) -> None:
        check_radius("NormBall", self.radius)
        if isinstance(self.norm, type) or not hasattr(self.norm, "project"):
            raise ValueError(f"NormBall needs a norm such as Max(), got {self.norm!r}")

    @property
    def ndim(self) -> int:
        return self.norm.ndim

    def residual(self, x: Tensor) -> Tensor:
        """(||x|| / radius - 1)_+: how far out, in radii"""
        (point,) = in_working_dtype(x)
        return (self.norm(point) / self.radius - 1).clamp(min=0)

    def project(self, x: Tensor) -> Tensor:
        (point,) = in_working_dtype(x)
        return self.norm.project(point, self.radius).to(x.dtype)

    def settled(self, x: Tensor) -> Tensor:
        (working,) = in_working_dtype(x)
        outwards = (1 + slack(x.dtype, working.dtype)) * x.double()
        return self.norm.project(outwards, self.radius)

    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        point = self.settled(x)

        def outwards(v: Tensor) -> Tensor:
            vector, step = v.double(), STEP * self.radius
            size = self.norm(vector)[(..., *(None,) * self.ndim)]
            unit = torch.where(size > 0, vector / size, 0.0)
            half, whole = (
                (self.norm.project(point + t * unit, self.radius) - point) / t
                for t in (step / 2, step)
            )
            return vector - size * (2 * half - whole)

        return TangentConstraint(torch.clone, torch.clone, nearest=outwards)

    def sample(self, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        """A standard normal point, its norm made uniform between zero and the radius."""
        draw = torch.randn(shape, dtype=dtype)
        size = self.norm(draw)
        share = torch.where(size > 0, self.radius * torch.rand_like(size) / size, 0.0)
        return share[(..., *(None,) * self.ndim)] * draw

    def check_shape(self, shape: tuple[int, ...]) -> None:
        super().check_shape(shape)
        self.norm.project(torch.zeros(shape), self.radius)  # or it says that it has no projection
