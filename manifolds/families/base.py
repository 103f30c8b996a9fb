"""Exponential families: probability densities as a manifold with the Fisher metric."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution


class ExponentialFamily(ABC):
    r"""q(x) = h(x) exp(<natural, T(x)> - A(natural)), one for every point `natural`: (..., dim).

        mean parameter   m = E_q T(x) = grad A(natural)
        Fisher metric    <u, v>_q = u^T F v,   F = Hess A(natural) = Cov_q T(x)
        natural gradient of f:   F^-1 grad f = the ordinary gradient of f with respect to m

    The natural gradient is a tangent vector, so it is the same in all coordinates of the family.
    The parameters are minimal: none follows from the others, and F is positive definite.

    Laws, checked for every subclass by tests/laws/test_family_laws.py:
        distribution(natural).log_prob(x) - <natural, T(x)> + A(natural) depends on x alone
        from_mean(to_mean(natural)) == natural, differentiable twice
        inner(natural, natural_gradient(f, natural), v) == the derivative of f along v
        a batch is a loop; no argument is changed

    Subclasses are frozen dataclasses.
    Source: Amari 1998, Natural gradient works efficiently in learning; Khan and Lin 2017,
    arXiv:1703.04265, for the gradient in mean parameters.
    """

    @property
    @abstractmethod
    def dim(self) -> int:
        """How many parameters one density has."""

    @abstractmethod
    def statistics(self, x: Tensor) -> Tensor:
        """T(x): (..., dim), the sufficient statistics of outcomes x."""

    @abstractmethod
    def log_partition(self, natural: Tensor) -> Tensor:
        """A(natural): (...), the logarithm of what makes the density integrate to one."""

    @abstractmethod
    def from_mean(self, mean: Tensor) -> Tensor:
        """The natural parameters of the density whose mean parameters are given."""

    @abstractmethod
    def distribution(self, natural: Tensor) -> Distribution:
        """The densities as torch knows them: to sample from, or to evaluate."""

    def to_mean(self, natural: Tensor) -> Tensor:
        """E T(x) = grad A(natural)."""
        self.check_shape(natural)
        gradient: Tensor = torch.func.grad(lambda p: self.log_partition(p).sum())(natural)
        return gradient

    def natural_gradient(self, f: Callable[[Tensor], Tensor], natural: Tensor) -> Tensor:
        """F^-1 grad f(natural), as the gradient in mean parameters: F is not formed.

        f maps natural parameters (..., dim) to values (...), each of its own point alone.
        """
        mean = self.to_mean(natural)
        gradient: Tensor = torch.func.grad(lambda m: f(self.from_mean(m)).sum())(mean)
        return gradient

    def fisher_product(self, natural: Tensor, v: Tensor) -> Tensor:
        """F v = grad <to_mean(natural), v>: how fast the mean parameters change along v."""
        product: Tensor = torch.func.grad(lambda p: (self.to_mean(p) * v).sum())(natural)
        return product

    def fisher(self, natural: Tensor) -> Tensor:
        """F = Hess A(natural): (..., dim, dim)."""
        self.check_shape(natural)
        eye = torch.eye(self.dim, dtype=natural.dtype, device=natural.device)
        basis = eye.reshape(self.dim, *[1] * (natural.ndim - 1), self.dim)
        columns = torch.func.vmap(lambda v: self.fisher_product(natural, v))
        return columns(basis.expand(self.dim, *natural.shape)).movedim(0, -1)

    def inner(self, natural: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """<u, v> = u^T F v of two tangent vectors at a point."""
        return (self.fisher_product(natural, u) * v).sum(-1)

    def newton_step(self, natural: Tensor, mean: Tensor) -> Tensor:
        """natural + F^-1 (mean - to_mean(natural)): nearer to from_mean(mean), if it is near."""
        missing = mean - self.to_mean(natural)
        return natural + torch.linalg.solve(self.fisher(natural), missing[..., None])[..., 0]

    def check_shape(self, natural: Tensor) -> None:
        """Raise ValueError unless the last dim holds the parameters of one density."""
        if natural.ndim == 0 or natural.shape[-1] != self.dim:
            raise ValueError(
                f"{self} has {self.dim} natural parameters in the last dim, "
                f"got shape {tuple(natural.shape)}"
            )


def blr_step(natural: Tensor, prior: Tensor, gradient: Tensor, *, rate: float) -> Tensor:
    r"""One step of the Bayesian learning rule, along a natural gradient, towards the posterior.

        natural <- (1 - rate) natural + rate (prior + gradient)
        gradient = grad_m E_q log p(data | x),   m: mean parameters,   all: (..., dim)

    The step is natural gradient descent on KL(q || posterior).  Under a conjugate likelihood the
    gradient is the same everywhere, and a step of rate 1 from anywhere is the exact posterior.

    >>> heads_tails = torch.tensor([3.0, 1.0])  # conjugate to Beta: E_q log p = <heads_tails, m>
    >>> blr_step(torch.tensor([9.0, 9.0]), torch.tensor([1.0, 1.0]), heads_tails, rate=1.0)
    tensor([4., 2.])

    Source: Khan and Rue 2021, The Bayesian learning rule, arXiv:2107.04562.
    """
    return natural.lerp(prior + gradient, rate)
