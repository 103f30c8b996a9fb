"""The affine-invariant metric of SPD matrices: Fisher's metric on the precision of a Gaussian."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modula.manifolds.numerics import compose_symmetric, symmetric


def affine_inner(s: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """<u, v>_S = tr(S^-1 u S^-1 v) / 2, of symmetric u, v at S, all (..., n, n).

    It is the Fisher metric of N(mu, S^-1) in S, and in the covariance S^-1 just as well.
    """
    left, right = torch.linalg.solve(s, u), torch.linalg.solve(s, v)
    return (left * right.mT).sum((-2, -1)) / 2


@dataclass(frozen=True, eq=False)
class NormalCoordinates:
    r"""Symmetric X: (..., n, n) as coordinates of SPD matrices around S = B B^T, with X = 0 at S.

        point(X) = B exp(X) B^T

    The straight lines t X are the geodesics through S, and at S the metric is <X, Y>_F / 2, a
    constant: momentum, norms and clipping of X there are plain Euclidean operations.

    >>> chart = NormalCoordinates(torch.tensor([[2.0]]))
    >>> chart.coordinates(torch.tensor([[2.0]]))
    tensor([[-0.6931]])

    Source: Lin, Duruisseaux, Leok, Nielsen, Khan, Schmidt 2023, arXiv:2302.09738.
    """

    factor: Tensor

    def point(self, x: Tensor) -> Tensor:
        """B exp(X) B^T"""
        return self.to_tangent(_of_eigenvalues(torch.exp, x))

    def coordinates(self, s: Tensor) -> Tensor:
        """log(B^-1 S B^-T), for which point gives S back."""
        return _of_eigenvalues(torch.log, self.from_tangent(s))

    def to_tangent(self, x: Tensor) -> Tensor:
        """D = B X B^T: the direction in which the line t X leaves."""
        return self.factor @ x @ self.factor.mT

    def from_tangent(self, d: Tensor) -> Tensor:
        """X = B^-1 D B^-T"""
        half = torch.linalg.solve(self.factor, d)
        return symmetric(torch.linalg.solve(self.factor, half.mT))

    def gradient(self, g: Tensor) -> Tensor:
        """B^T G B: the gradient in X at 0 of a function whose gradient in S is G."""
        return self.factor.mT @ symmetric(g) @ self.factor


def geodesic(s: Tensor, d: Tensor) -> Tensor:
    """S^1/2 exp(S^-1/2 D S^-1/2) S^1/2: where the geodesic that leaves S along D is at time 1.

    Positive definite for every symmetric D; SPD().retract(S, D) is its second-order part.
    Source: Bhatia 2007, Positive Definite Matrices, 6.1.
    """
    chart = NormalCoordinates(torch.linalg.cholesky(s))  # any B with S = B B^T gives the same
    return chart.point(chart.from_tangent(d))


def factor_step(factor: Tensor, d: Tensor) -> Tensor:
    r"""B h(B^-1 D B^-T / 2) with h(X) = I + X + X^2 / 2: the factor B of S = B B^T, moved along D.

    The new B B^T agrees with the geodesic from S along D to second order, without a root or a
    decomposition.  B stays invertible, and diagonal or block diagonal where B and D are.
    Source: Lin et al. 2023, arXiv:2302.09738.
    """
    x = NormalCoordinates(factor).from_tangent(d) / 2
    move = factor @ x
    return factor + move + move @ x / 2


def _of_eigenvalues(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    values, basis = torch.linalg.eigh(symmetric(x))
    return compose_symmetric(function(values), basis)
