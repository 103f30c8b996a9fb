"""Manifolds given by a function that is zero on them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from modula.manifolds.base import Manifold, TangentConstraint
from modula.manifolds.checks import is_whole
from modula.manifolds.jacobian import Function, Jacobian, row_length
from modula.manifolds.numerics import in_working_dtype, ratio

MOST_STEPS = 100  # of Gauss-Newton: each halves the distance from afar and squares it nearby
STILL = 1e3  # times eps: a step this short, relative to w, is the last; its square is what is left


@dataclass(frozen=True, repr=False)
class Implicit(Manifold):
    r"""{ w : constraint(w) = 0 },  constraint: one point of `ndim` dims -> a tensor of any shape.

        J = d constraint / d w, never formed: only products with it and with its transpose
        L v = J v,  L* y = J^T y
        to_tangent(w, v) = v - J^+ J v
        project(w): w <- w - J^+ constraint(w) until w stays (Gauss-Newton)
        retract(w, v) = project(w + v), of second order

    The constraint may say one thing twice, as W^T W = I does, but J must not lose rank on the
    manifold. Gauss-Newton ends at the nearest point for spheres and orthonormal columns, otherwise
    at one nearest up to the square of the distance. The residual is the norm of the constraint,
    not a distance. Every solve looks at its numbers to know when to stop, which makes a GPU wait.

    >>> orthonormal = Implicit(lambda w: w.T @ w - torch.eye(w.shape[1]))
    >>> orthonormal.project(torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
    tensor([[0., 1.],
            [1., 0.]])

    Source: Absil, Mahony, Sepulchre, Optimization Algorithms on Matrix Manifolds, 2008, 3.3.2;
    Gauss-Newton: Ben-Israel 1966, A Newton-Raphson method for the solution of systems of equations.
    """

    constraint: Function
    ndim: int = 2

    def __post_init__(self) -> None:
        if not callable(self.constraint) or isinstance(self.constraint, type):
            raise ValueError(
                f"Implicit needs a function that is zero on the manifold, got {self.constraint!r}: "
                f"write for example Implicit(lambda w: w.square().sum() - 1)"
            )
        if not is_whole(self.ndim, 1):
            raise ValueError(
                f"Implicit needs ndim >= 1 trailing dims, got {self.ndim!r}: use ndim=2"
            )

    def is_hypersurface(self, shape: tuple[int, ...]) -> bool:
        """Whether the constraint is one equation for each point of a weight of this shape."""
        point = torch.ones(1, math.prod(shape[len(shape) - self.ndim :]))
        try:
            return self._flat(shape)(point).shape[1] == 1
        except RuntimeError:  # it knows one device or precision only, and is not to be tried here
            return False

    def residual(self, x: Tensor) -> Tensor:
        """|| constraint(x) ||_2"""
        (point,) = in_working_dtype(x)
        batch = x.shape[: x.ndim - self.ndim]
        if 0 in batch:
            return point.new_zeros(batch)
        return torch.linalg.vector_norm(self._flat(x.shape)(self._rows(point)), dim=1).view(batch)

    def project(self, x: Tensor) -> Tensor:
        self.check_shape(x.shape)
        (point,) = in_working_dtype(x)
        if x.numel() == 0:
            return x.clone()
        f = self._flat(x.shape)
        return self._gauss_newton(f, self._rows(point)).reshape(x.shape).to(x.dtype)

    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        (point,) = in_working_dtype(x)
        if x.numel() == 0:
            return TangentConstraint(torch.clone, torch.clone)
        jacobian = Jacobian(self._flat(x.shape), self._rows(point))

        def change(v: Tensor) -> Tensor:
            return jacobian.times(self._rows(v))

        return TangentConstraint(
            change,
            lambda y: jacobian.transpose_times(y).reshape(x.shape),
            nearest=lambda v: jacobian.shortest_step(change(v)).reshape(x.shape),
        )

    @property
    def can_fail(self) -> bool:
        return True

    def check_point(self, x: Tensor) -> None:
        (point,) = in_working_dtype(x)
        if x.numel():
            self._check_landing(self._flat(x.shape), self._rows(point))

    def sample(self, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        """The projection of a standard normal point."""
        return self.project(torch.randn(shape, dtype=dtype))

    def __repr__(self) -> str:
        name = getattr(self.constraint, "__name__", repr(self.constraint))
        return f"Implicit({name})" if self.ndim == 2 else f"Implicit({name}, ndim={self.ndim})"

    def _rows(self, x: Tensor) -> Tensor:
        """(batch, entries): one row for each point."""
        return x.reshape(math.prod(x.shape[: x.ndim - self.ndim]), -1)

    def _flat(self, shape: tuple[int, ...]) -> Function:
        """The constraint from (batch, entries) to (batch, equations)."""
        one_point = shape[len(shape) - self.ndim :]
        return torch.func.vmap(lambda w: self.constraint(w.reshape(one_point)).reshape(-1))

    def _gauss_newton(self, f: Function, w: Tensor) -> Tensor:
        tolerance = STILL * torch.finfo(w.dtype).eps
        for _ in range(MOST_STEPS):
            jacobian = Jacobian(f, w)
            step = jacobian.shortest_step(jacobian.value)
            w = w - step
            if (row_length(step) <= tolerance * row_length(w)).all():
                break
        self._check_landing(f, w)
        return w

    def _check_landing(self, f: Function, w: Tensor) -> None:
        """Raise ValueError unless f(w) = 0 and J says by how much f(w) changes nearby.

        "Small" is measured against what a step as long as w does to f: in the direction of a probe
        without meaning, and to first order along J^T f(w), since either can be zero by accident.
        """
        jacobian = Jacobian(f, w)
        value = jacobian.value
        failure, size = row_length(value), row_length(w)
        size = torch.where(size > 0, size, 1)
        probe = torch.cos(torch.arange(1.0, w.shape[1] + 1, dtype=w.dtype, device=w.device))
        change = f(w + size * probe / torch.linalg.vector_norm(probe))
        change = change - value
        slope = ratio(row_length(jacobian.transpose_times(value)), failure) * size
        root = torch.finfo(w.dtype).eps ** 0.5
        solved = failure <= root * torch.maximum(row_length(change), slope)
        stuck = slope <= root * row_length(change)
        # Only halving the distance, the last step to a double root leaves J as small as itself.
        shrunk = 40 * STILL * torch.finfo(w.dtype).eps * row_length(change).square()
        flat = row_length(jacobian.transpose_times(change)) * size < shrunk
        if (deficient := flat | (stuck & ~solved)).any():
            raise ValueError(
                f"the Jacobian of {self} is rank-deficient at {int(deficient.sum())} of {len(w)} "
                f"points: start elsewhere, or write the constraint so that it crosses zero "
                f"(|w| - 1, not its square)"
            )
        if not solved.all():
            raise ValueError(
                f"{self} has no point within {MOST_STEPS} Gauss-Newton steps of the given one: "
                f"|constraint| is still {float(failure.max()):.3g}, so start nearer, or check that "
                f"the constraint can be met"
            )
