"""What a constraint set must answer, at a point and along a step."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import fields
from functools import partial

import torch
from torch import Tensor


class Manifold(ABC):
    """Where a weight is allowed to live: the last `ndim` dims; any dims before them are a batch.

    Laws, checked for every subclass by tests/laws/test_manifold_laws.py:
        residual(project(x)) == 0, residual(retract(x, v)) == 0, residual(sample(shape)) == 0
        to_tangent(x, to_tangent(x, v)) == to_tangent(x, v), orthogonal to what it removes
        tangent_projector(x)(v) == to_tangent(x, v), to the bit
        retract(x, t v) == x + t v + O(t^2) for every tangent v
        transport(x, y, v) is tangent at y, and transport(x, x, v) == v for every tangent v
        a point stays where it is: project(x) == x and retract(x, 0) == x
        no argument is changed; half precision is computed in float32 and handed back as half

    Subclasses are frozen dataclasses with `repr=False`: they print as the call that makes them,
    without the arguments left at their defaults.
    """

    @property
    @abstractmethod
    def ndim(self) -> int:
        """How many trailing dims one point has; 0 if every shape will do."""

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """Distance-like number, relative to the manifold's size, zero exactly on it."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """Nearest point of the manifold, in Frobenius distance."""

    @abstractmethod
    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """The part of v that stays on the manifold to first order: its orthogonal projection."""

    def tangent_projector(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """v -> to_tangent(x, v), for many v at one x: what x alone decides is computed once."""
        return partial(self.to_tangent, x)

    def retract(self, x: Tensor, v: Tensor) -> Tensor:
        """Follow the tangent v from x, ending on the manifold: at the point nearest to x + v."""
        point, vector = in_working_dtype(x, v)
        return self.project(point + vector).to(x.dtype)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The tangent v at x, carried to a tangent at y: its part that is tangent there.

        Source: Absil, Mahony, Sepulchre, Optimization Algorithms on Matrix Manifolds, 2008, 8.1.3.
        """
        return self.to_tangent(y, v)

    @abstractmethod
    def sample(self, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        """A random point, uniform where that means something."""

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if no point of this shape exists; the text names the nearest cure."""
        if len(shape) < self.ndim:
            raise ValueError(
                f"{self} needs at least {self.ndim} dims, got shape {tuple(shape)}: reshape the "
                f"weight, or declare Euclidean()"
            )

    @property
    def can_fail(self) -> bool:
        """Whether project and retract raise ValueError where a search for a point ends at none."""
        return False

    def check_point(self, x: Tensor) -> None:  # noqa: B027
        """Raise ValueError if a point has no tangent space that could be found; most always do."""

    def __repr__(self) -> str:
        given = ((f.name, getattr(self, f.name), f.default) for f in fields(self))  # type: ignore[arg-type]
        arguments = (f"{name}={value!r}" for name, value, default in given if value != default)
        return f"{type(self).__name__}({', '.join(arguments)})"


def check_radius(manifold: str, radius: float) -> None:
    """Raise ValueError unless the radius is a positive, finite number."""
    if not 0 < radius < float("inf"):
        raise ValueError(
            f"{manifold} needs a positive, finite radius, got {radius}: the usual one is 1.0"
        )


def in_working_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Half precision as float32, anything wider as it is."""
    for x in tensors:
        if not x.is_floating_point():
            raise ValueError(
                f"a point of a manifold is a floating-point tensor, got {x.dtype}: call .float()"
            )
    return tuple(x.float() if x.dtype.itemsize < 4 else x for x in tensors)
