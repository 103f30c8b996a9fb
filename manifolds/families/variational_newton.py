"""Variational online Newton: natural gradient descent on a Gaussian over weights."""

from collections.abc import Callable

import torch
from torch import Tensor

from modula.manifolds.numerics import symmetric
from modula.manifolds.spd import SPD


def von_step(
    mean: Tensor,
    precision: Tensor,
    gradient: Tensor,
    hessian: Tensor,
    *,
    prior_precision: float,
    rate: float,
    retract: Callable[[Tensor, Tensor], Tensor] = SPD().retract,
) -> tuple[Tensor, Tensor]:
    r"""The next q = N(mean, precision^-1), nearer to the posterior under a prior N(0, I / delta).

        S_new  = retract(S, rate (E_q[hessian] + delta I - S))
        mu_new = mu - rate S_new^-1 (E_q[gradient] + delta mu)

    mean, gradient: (..., n); precision, hessian: (..., n, n), of the loss -log p(data | w).
    With retract = Euclidean().retract this is the Bayesian learning rule, and exact in one step
    of rate 1 if the loss is quadratic; SPD().retract and geodesic stay positive definite for
    every hessian.  The mean moves by the new precision: by the old one no step is exact.

    Source: Khan et al. 2018, arXiv:1806.04854; Lin, Schmidt, Khan 2020, arXiv:2002.10060, for the
    retraction.
    """
    eye = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    new = retract(precision, rate * (hessian + prior_precision * eye - precision))
    descent = gradient + prior_precision * mean
    return mean - rate * torch.linalg.solve(new, descent[..., None])[..., 0], new


def stein_hessian(gradients: Tensor, deviations: Tensor, precision: Tensor) -> Tensor:
    r"""E_q[hessian] from gradients alone: the mean of S (w - mu) g(w)^T, made symmetric.

    gradients, deviations w - mu: (samples, ..., n) of samples w of q = N(mu, S^-1);
    precision S: (..., n, n).  Not the mean of g g^T, which estimates a Fisher matrix.

    Source: Stein 1981, Estimation of the mean of a multivariate normal distribution, lemma 2.
    """
    white = (precision @ deviations[..., None])[..., 0]
    outer = torch.einsum("s...i,s...j->...ij", white, gradients) / len(gradients)
    return symmetric(outer)
