"""The base class of manifolds, and the linear constraint that tangent vectors meet at a point."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass

import torch
from torch import Tensor

from modula.manifolds.numerics import in_working_dtype

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TangentConstraint:
    """What makes a vector v tangent at one point: L v = 0, for a linear map L; and its adjoint L*.

        <L v, y> == <v, L* y>   for all v and y;  every L* y is normal to the manifold

    of        v -> L v
    adjoint   y -> L* y
    nearest   v -> the normal vector nearest to v; left out, L* L v, which it is where L L* = 1

    Source: Boyd and Vandenberghe 2004, Convex Optimization, 5.1: y is a Lagrange multiplier.
    """

    of: Map
    adjoint: Map
    nearest: Map | None = None

    def normal_part(self, v: Tensor) -> Tensor:
        """The normal vector nearest to v: what to_tangent takes away."""
        return self.adjoint(self.of(v)) if self.nearest is None else self.nearest(v)


class Manifold(ABC):
    """Where a weight is allowed to live: the last `ndim` dims; any dims before them are a batch.

    Laws, checked for every subclass by tests/laws/test_manifold_laws.py and test_tangent_laws.py:
        residual(project(x)) == 0, residual(retract(x, v)) == 0, residual(sample(shape)) == 0
        to_tangent(x, to_tangent(x, v)) == to_tangent(x, v), orthogonal to what it removes
        tangent_projector(x)(v) == to_tangent(x, v), to the bit
        L to_tangent(x, v) == 0 and to_tangent(x, L* y) == 0, for the tangent constraint L at x
        retract(x, t v) == x + t v + O(t^2) for every tangent v
        transport(x, y, v) is tangent at y, and transport(x, x, v) == v for every tangent v
        a point stays where it is: project(x) == x and retract(x, 0) == x
        no argument is changed; half precision is computed in float32 and handed back as half

    Subclasses are frozen dataclasses with `repr=False`: they print as the call that makes them,
    without the arguments left at their defaults.  One that is no dataclass prints its attributes.
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
    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        """L and L* at x, for vectors of float32 or wider; a batch of points has one of L v each."""

    def tangent_projector(self, x: Tensor) -> Map:
        """v -> to_tangent(x, v), for many v at one x: what x alone decides is computed once."""
        constraint = self.tangent_constraint(x)

        def to_tangent(v: Tensor) -> Tensor:
            (vector,) = in_working_dtype(v)
            return (vector - constraint.normal_part(vector)).to(v.dtype)

        return to_tangent

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """The part of v that stays on the manifold to first order: its orthogonal projection."""
        return self.tangent_projector(x)(v)

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
        given: Iterable[tuple[str, object, object]]
        if is_dataclass(self):
            given = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        else:
            given = ((name, value, MISSING) for name, value in vars(self).items())
        arguments = (f"{name}={value!r}" for name, value, default in given if value != default)
        return f"{type(self).__name__}({', '.join(arguments)})"


def along(normal: Tensor, dims: tuple[int, ...]) -> TangentConstraint:
    """L v = <n, v> over `dims`, which are kept, and L* y = y n, for a normal n of length one."""
    return TangentConstraint(lambda v: (normal * v).sum(dims, keepdim=True), lambda y: normal * y)
