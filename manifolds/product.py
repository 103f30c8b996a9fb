"""The product manifold of a network: each weight on a manifold of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from modula.manifolds.base import Manifold, TangentConstraint

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, repr=False)
class Product:
    """Named weights w = {name: tensor}, each on its manifold: every answer is given one by one.

        residual(w)^2 = sum_l residual_l(w_l)^2, over every point of every weight

    >>> from modula.manifolds.sphere import Sphere
    >>> from modula.manifolds.stiefel import Stiefel
    >>> network = Product((("embed", Sphere()), ("head", Stiefel())))
    >>> network
    {embed: Sphere(), head: Stiefel()}
    >>> network.project({"embed": torch.tensor([3.0, 4.0]), "head": 2 * torch.eye(2)})["embed"]
    tensor([0.6000, 0.8000])

    Source: Absil, Mahony, Sepulchre, Optimization Algorithms on Matrix Manifolds, 2008, 3.1.6.
    """

    parts: tuple[tuple[str, Manifold], ...]

    def __post_init__(self) -> None:
        if not isinstance(self.parts, tuple) or not all(map(_is_named, self.parts)):
            raise ValueError(
                f'a product needs named manifolds, such as (("head", Stiefel()),); got '
                f"{self.parts!r}"
            )
        if len(self.manifolds) != len(self.parts) or not self.parts:
            names = ", ".join(name for name, _ in self.parts) or "none"
            raise ValueError(f"a product needs weights of different names; got {names}")

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name}: {manifold}' for name, manifold in self.parts)}}}"

    @cached_property
    def manifolds(self) -> dict[str, Manifold]:
        """The manifold of each weight."""
        return dict(self.parts)

    def residual(self, x: Weights) -> Tensor:
        """Root of the sum of all squared residuals: one number for the network."""
        found = self._each(lambda manifold, weight: manifold.residual(weight), x).values()
        return torch.stack([torch.linalg.vector_norm(r) for r in found]).norm()

    def project(self, x: Weights) -> dict[str, Tensor]:
        """Nearest point, in the root of the sum of squared Frobenius distances."""
        return self._each(lambda manifold, weight: manifold.project(weight), x)

    def tangent_constraints(self, x: Weights) -> dict[str, TangentConstraint]:
        """What makes each weight's part of a vector tangent."""
        self._check_names(x)
        return {name: manifold.tangent_constraint(x[name]) for name, manifold in self.parts}

    def to_tangent(self, x: Weights, v: Weights) -> dict[str, Tensor]:
        """The part of v that stays on the manifold to first order."""
        return self._each(lambda manifold, w, d: manifold.to_tangent(w, d), x, v)

    def retract(self, x: Weights, v: Weights) -> dict[str, Tensor]:
        """Follow the tangent v from x, ending on the manifold."""
        return self._each(lambda manifold, w, d: manifold.retract(w, d), x, v)

    def transport(self, x: Weights, y: Weights, v: Weights) -> dict[str, Tensor]:
        """The tangent v at x, carried to a tangent at y."""
        return self._each(lambda manifold, a, b, d: manifold.transport(a, b, d), x, y, v)

    def sample(
        self, shapes: Mapping[str, tuple[int, ...]], *, dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """A random point: independent ones of each manifold."""
        self._check_names(shapes)
        return {n: m.sample(tuple(shapes[n]), dtype=dtype) for n, m in self.parts}

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ValueError if there is no point of these shapes; the text says which weight."""
        self._check_names(shapes)
        for name, manifold in self.parts:
            try:
                manifold.check_shape(tuple(shapes[name]))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None

    def _each(self, ask: Callable[..., Tensor], *weights: Weights) -> dict[str, Tensor]:
        for tensors in weights:
            self._check_names(tensors)
        return {name: ask(m, *(tensors[name] for tensors in weights)) for name, m in self.parts}

    def _check_names(self, given: Mapping[str, object]) -> None:
        missing, unknown = (
            self.manifolds.keys() - given.keys(),
            given.keys() - self.manifolds.keys(),
        )
        if missing or unknown:
            raise ValueError(
                f"this product holds {', '.join(self.manifolds)}; "
                f"missing: {', '.join(sorted(missing)) or 'none'}, "
                f"unknown: {', '.join(sorted(unknown)) or 'none'}"
            )


def _is_named(part: object) -> bool:
    if not isinstance(part, tuple) or len(part) != 2:
        return False
    return isinstance(part[0], str) and isinstance(part[1], Manifold)
