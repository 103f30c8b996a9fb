"""The transpose of a manifold of tall matrices, for wide ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from modula.manifolds.base import Manifold, TangentConstraint
from modula.manifolds.region import Region


@dataclass(frozen=True, repr=False)
class Transposed(Manifold):
    """{ W : W^T on `manifold` },  W: (..., out, in).

    A wide matrix has no orthonormal columns, but it can have orthonormal rows:

    >>> from modula.manifolds.stiefel import Stiefel
    >>> Transposed(Stiefel()).residual(torch.eye(2, 3))
    tensor(0.)
    """

    manifold: Manifold

    def __post_init__(self) -> None:
        if not isinstance(self.manifold, Manifold):
            raise ValueError(
                f"Transposed needs a manifold such as Stiefel(), got {self.manifold!r}"
            )
        if isinstance(self.manifold, Region):
            raise ValueError(
                f"{self} is not needed: {self.manifold} holds wide matrices as well as tall ones"
            )

    def __repr__(self) -> str:
        return f"Transposed({self.manifold})"

    @property
    def ndim(self) -> int:
        return self.manifold.ndim

    def check_shape(self, shape: tuple[int, ...]) -> None:
        try:
            self.manifold.check_shape((*shape[:-2], *shape[-2:][::-1]))
        except ValueError:
            self.manifold.check_shape(shape)  # nor does it fit untransposed, and says why
            raise ValueError(
                f"{self} has no point of shape {tuple(shape)}: declare {self.manifold} itself, "
                f"which has some"
            ) from None

    @property
    def can_fail(self) -> bool:
        return self.manifold.can_fail

    def check_point(self, x: Tensor) -> None:
        self.manifold.check_point(x.mT)

    def residual(self, x: Tensor) -> Tensor:
        return self.manifold.residual(x.mT)

    def project(self, x: Tensor) -> Tensor:
        return self.manifold.project(x.mT).mT

    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        upright = self.manifold.tangent_constraint(x.mT)
        return TangentConstraint(
            lambda v: upright.of(v.mT),
            lambda y: upright.adjoint(y).mT,
            nearest=lambda v: upright.normal_part(v.mT).mT,
        )

    def retract(self, x: Tensor, v: Tensor) -> Tensor:
        return self.manifold.retract(x.mT, v.mT).mT

    def sample(self, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        """The transpose of a random point of the tall manifold."""
        return self.manifold.sample((*shape[:-2], *shape[-2:][::-1]), dtype=dtype).mT
