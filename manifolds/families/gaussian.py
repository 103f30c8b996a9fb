"""Gaussians as exponential families, with a full or a diagonal precision."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from modula.manifolds.checks import is_whole
from modula.manifolds.families.base import ExponentialFamily


@dataclass(frozen=True)
class Gaussian(ExponentialFamily):
    r"""N(mu, P^-1) on vectors x: (..., n); n = 1 is the univariate Gaussian.

        T(x) = (x, x_i x_j for i >= j)         natural = (P mu, -P_ii / 2, -P_ij for i > j)
        A = mu^T P mu / 2 - log det P / 2      m = (mu, P^-1 + mu mu^T)

    >>> Gaussian().from_precision(torch.tensor([3.0]), torch.tensor([[0.5]]))
    tensor([ 1.5000, -0.2500])

    Source: Wainwright and Jordan 2008, Graphical models, exponential families, and variational
    inference, 3.3.
    """

    n: int = 1

    def __post_init__(self) -> None:
        _check_size(self, self.n)

    @property
    def dim(self) -> int:
        return self.n + self.n * (self.n + 1) // 2

    def statistics(self, x: Tensor) -> Tensor:
        return torch.cat((x, self._entries(x[..., :, None] * x[..., None, :])), -1)

    def log_partition(self, natural: Tensor) -> Tensor:
        shift, factor = natural[..., : self.n], torch.linalg.cholesky(self._precision(natural))
        white = torch.linalg.solve_triangular(factor, shift[..., None], upper=False)[..., 0]
        return white.square().sum(-1) / 2 - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def from_mean(self, mean: Tensor) -> Tensor:
        self.check_shape(mean)
        center = mean[..., : self.n]
        second_moment = self._matrix(mean[..., self.n :])
        covariance = second_moment - center[..., :, None] * center[..., None, :]
        precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
        return self.from_precision(center, precision)

    def distribution(self, natural: Tensor) -> Distribution:
        mean, precision = self.to_precision(natural)
        return MultivariateNormal(mean, precision_matrix=precision)

    def from_precision(self, mean: Tensor, precision: Tensor) -> Tensor:
        """Natural parameters of mean mu: (..., n) and precision P: (..., n, n)."""
        shift = (precision @ mean[..., None])[..., 0]
        return torch.cat((shift, -self._entries(precision) * self._share(precision)), -1)

    def to_precision(self, natural: Tensor) -> tuple[Tensor, Tensor]:
        """Mean mu: (..., n) and precision P: (..., n, n)."""
        self.check_shape(natural)
        precision = self._precision(natural)
        factor = torch.linalg.cholesky(precision)
        return torch.cholesky_solve(natural[..., : self.n, None], factor)[..., 0], precision

    def _precision(self, natural: Tensor) -> Tensor:
        return self._matrix(-natural[..., self.n :] / self._share(natural))

    def _entries(self, matrix: Tensor) -> Tensor:
        """The entries on and below the diagonal, row by row: (..., n (n + 1) / 2)."""
        rows, columns = torch.tril_indices(self.n, self.n, device=matrix.device)
        return matrix[..., rows, columns]

    def _matrix(self, entries: Tensor) -> Tensor:
        """The symmetric matrix of these entries: (..., n, n)."""
        i = torch.arange(self.n, device=entries.device)
        row, column = torch.maximum(i[:, None], i), torch.minimum(i[:, None], i)
        return entries[..., row * (row + 1) // 2 + column]

    def _share(self, like: Tensor) -> Tensor:
        """How often x^T P x / 2 holds an entry of P: 1/2 on the diagonal, 1 below it."""
        rows, columns = torch.tril_indices(self.n, self.n, device=like.device)
        return torch.where(rows == columns, 0.5, 1.0).to(like.dtype)


@dataclass(frozen=True)
class DiagonalGaussian(ExponentialFamily):
    r"""N(mu, diag(1/p)) on vectors x: (..., n), its entries independent.

        T(x) = (x, x^2)                        natural = (p mu, -p / 2)
        A = sum p mu^2 / 2 - log(p) / 2        m = (mu, 1/p + mu^2)

    >>> family = DiagonalGaussian(2)
    >>> q = family.from_precision(torch.tensor([3.0, 0.0]), torch.tensor([0.5, 4.0]))
    >>> q
    tensor([ 1.5000,  0.0000, -0.2500, -2.0000])
    >>> family.to_mean(q)
    tensor([ 3.0000,  0.0000, 11.0000,  0.2500])
    """

    n: int = 1

    def __post_init__(self) -> None:
        _check_size(self, self.n)

    @property
    def dim(self) -> int:
        return 2 * self.n

    def statistics(self, x: Tensor) -> Tensor:
        return torch.cat((x, x.square()), -1)

    def log_partition(self, natural: Tensor) -> Tensor:
        shift, precision = natural[..., : self.n], -2 * natural[..., self.n :]
        return (shift.square() / precision - precision.log()).sum(-1) / 2

    def from_mean(self, mean: Tensor) -> Tensor:
        self.check_shape(mean)
        center, square = mean[..., : self.n], mean[..., self.n :]
        return self.from_precision(center, 1 / (square - center.square()))

    def distribution(self, natural: Tensor) -> Distribution:
        mean, precision = self.to_precision(natural)
        return Independent(Normal(mean, precision.rsqrt()), 1)

    def from_precision(self, mean: Tensor, precision: Tensor) -> Tensor:
        """Natural parameters of mean mu and precision p, both (..., n)."""
        return torch.cat((precision * mean, -precision / 2), -1)

    def to_precision(self, natural: Tensor) -> tuple[Tensor, Tensor]:
        """Mean mu and precision p, both (..., n)."""
        self.check_shape(natural)
        precision = -2 * natural[..., self.n :]
        return natural[..., : self.n] / precision, precision


def _check_size(family: ExponentialFamily, n: int) -> None:
    if not is_whole(n, 1):
        raise ValueError(f"{type(family).__name__} needs vectors of 1 entry or more, got n={n!r}")
