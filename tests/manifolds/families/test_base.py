"""Conjugate posteriors in one step, and published numbers of natural gradients."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.manifolds.families.base import blr_step
from modula.manifolds.families.beta import Beta
from modula.manifolds.families.categorical import Categorical
from modula.manifolds.families.gamma import Gamma
from modula.manifolds.families.gaussian import DiagonalGaussian, Gaussian


def f64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("start", [f64(0.1, -2.0), f64(7.0, -0.05)], ids=str)
def test_gaussian_mean_is_learnt_in_one_step(start: Tensor) -> None:
    """Prior N(0, 1/.7), nine observations of noise 1/2.3: precision .7 + 9 * 2.3 = 21.4."""
    family, y = DiagonalGaussian(), normal(9)
    prior = family.from_precision(f64(0.0), f64(0.7))

    def log_likelihood(m: Tensor) -> Tensor:
        """E_q log p(y | x) of mean parameters m = (E x, E x^2)."""
        return -2.3 / 2 * (y.square().sum() - 2 * y.sum() * m[0] + 9 * m[1])

    gradient = torch.func.grad(log_likelihood)(family.to_mean(start))
    mean, precision = family.to_precision(blr_step(start, prior, gradient, rate=1.0))
    assert_close(precision, f64(21.4))
    assert_close(mean, (2.3 * y.sum() / 21.4)[None])


@pytest.mark.parametrize("seed", [0, 1])
def test_linear_regression_is_learnt_in_one_step(seed: int) -> None:
    """y = X w + noise: precision X^T X / s2 + P0, mean precision^-1 (X^T y / s2 + P0 m0)."""
    family, x, y, s2 = Gaussian(4), normal(12, 4), normal(12, seed=1), 0.3
    p0, m0 = torch.diag(f64(0.5, 1.0, 2.0, 3.0)), f64(1.0, -1.0, 0.0, 2.0)
    start = family.from_precision(
        normal(4, seed=seed), torch.eye(4, dtype=torch.float64) * 3 + torch.ones(4, 4)
    )

    def log_likelihood(natural: Tensor) -> Tensor:
        """-E |y - X w|^2 / (2 s2), in any parameters of q."""
        mean, precision = family.to_precision(natural)
        spread = torch.trace(x @ torch.linalg.inv(precision) @ x.mT)
        return -((y - x @ mean).square().sum() + spread) / (2 * s2)

    gradient = family.natural_gradient(log_likelihood, start)
    posterior = blr_step(start, family.from_precision(m0, p0), gradient, rate=1.0)
    mean, precision = family.to_precision(posterior)
    expected = x.mT @ x / s2 + p0
    assert_close(precision, expected, rtol=1e-10, atol=1e-10)
    assert_close(mean, torch.linalg.solve(expected, x.mT @ y / s2 + p0 @ m0))


@pytest.mark.parametrize("start", [f64(0.3, 40.0), f64(5.0, 0.2)], ids=str)
def test_coin_tosses_are_learnt_in_one_step(start: Tensor) -> None:
    """7 heads and 2 tails on Beta(1.5, 2): Beta(8.5, 4).  E_q log x = digamma(a) - digamma(a+b)."""

    def log_likelihood(q: Tensor) -> Tensor:
        a, b = q
        return 7 * a.digamma() + 2 * b.digamma() - 9 * (a + b).digamma()

    gradient = Beta().natural_gradient(log_likelihood, start)
    assert_close(gradient, f64(7.0, 2.0), rtol=1e-9, atol=1e-9)
    posterior = blr_step(start, f64(1.5, 2.0), gradient, rate=1.0)
    assert_close(posterior, f64(8.5, 4.0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("start", [f64(0.3, -40.0), f64(50.0, -0.2)], ids=str)
def test_poisson_counts_are_learnt_in_one_step(start: Tensor) -> None:
    """Counts 3, 0, 5 on Gamma(2, rate 1.5): Gamma(10, rate 4.5)."""

    def log_likelihood(q: Tensor) -> Tensor:
        shape, rate = q[0], -q[1]
        return 8 * (shape.digamma() - rate.log()) - 3 * shape / rate

    gradient = Gamma().natural_gradient(log_likelihood, start)
    posterior = blr_step(start, f64(2.0, -1.5), gradient, rate=1.0)
    assert_close(posterior, f64(10.0, -4.5), rtol=1e-8, atol=1e-8)


def test_a_smaller_rate_is_an_average() -> None:
    q = blr_step(f64(1.0, 2.0), f64(0.5, 0.5), f64(3.0, 0.0), rate=0.1)
    assert_close(q, f64(0.9 * 1 + 0.1 * 3.5, 0.9 * 2 + 0.1 * 0.5))


def test_natural_gradients_of_a_gaussian_in_two_coordinates() -> None:
    """f = E[x^2 + log q(x)] at mean .5, variance 2: published numbers, and one vector."""
    family = DiagonalGaussian()

    def f(mean: Tensor, variance: Tensor) -> Tensor:
        return mean.square() + variance - (2 * math.pi * math.e * variance).log() / 2

    def by_precision(tau: Tensor) -> Tensor:
        return f(tau[0], 1 / tau[1])

    def by_variance(lam: Tensor) -> Tensor:
        return f(lam[0], lam[1])

    def precision_of(natural: Tensor) -> Tensor:
        return torch.cat(family.to_precision(natural))

    natural = family.from_precision(f64(0.5), f64(0.5))
    vector = family.natural_gradient(lambda q: by_precision(precision_of(q)), natural)
    in_precision = torch.func.jacrev(precision_of)(natural) @ vector
    assert_close(torch.func.grad(by_precision)(f64(0.5, 0.5)), f64(1.0, -3.0))
    assert_close(in_precision, f64(2.0, -1.5))

    def variance_of(tau: Tensor) -> Tensor:
        return torch.stack((tau[0], 1 / tau[1]))

    in_variance = torch.func.jacrev(variance_of)(f64(0.5, 0.5)) @ in_precision
    assert_close(torch.func.grad(by_variance)(f64(0.5, 2.0)), f64(1.0, 0.75))
    assert_close(in_variance, f64(2.0, 6.0))


def test_fisher_of_a_bernoulli_and_of_a_gaussian_by_formula() -> None:
    p = f64(0.3)
    assert_close(Categorical().fisher((p / (1 - p)).log()), f64(0.3 * 0.7)[None])
    assert_close(Categorical().to_mean(f64(0.4)), torch.sigmoid(f64(0.4)))
    # In (mean, precision s) the metric is diag(s, 1 / (2 s^2)).
    family, s = DiagonalGaussian(), f64(0.5)

    def natural_at(tau: Tensor) -> Tensor:
        return family.from_precision(tau[:1], tau[1:])

    j = torch.func.jacrev(natural_at)(f64(0.7, 0.5))
    metric = j.mT @ family.fisher(natural_at(f64(0.7, 0.5))) @ j
    assert_close(metric, torch.diag(torch.cat((s, 1 / (2 * s * s)))))


def test_a_full_gaussian_of_diagonal_precision_is_the_diagonal_one() -> None:
    mean, precision = normal(3), normal(3, seed=1).exp()
    full = Gaussian(3).from_precision(mean, torch.diag(precision))
    diagonal = DiagonalGaussian(3).from_precision(mean, precision)
    found, matrix = Gaussian(3).to_precision(full)
    assert_close((found, matrix), (mean, torch.diag(precision)))
    assert_close(Gaussian(3).log_partition(full), DiagonalGaussian(3).log_partition(diagonal))
    assert_close(Gaussian().from_precision(f64(2.0), f64(4.0)[None]), f64(8.0, -2.0))


@pytest.mark.parametrize("a", [1e-3, 0.05, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("b", [1e-3, 1.0, 1e4])
def test_newton_inverts_the_digammas_over_seven_decades(a: float, b: float) -> None:
    """The conditioning is b / a and more: 1e-15 of rounding, times 1e8, is what can be had."""
    for family, q in ((Beta(), f64(a, b)), (Gamma(), f64(a, -b))):
        assert_close(family.from_mean(family.to_mean(q)), q, rtol=1e-6, atol=0)


def test_a_family_of_nothing_is_told() -> None:
    with pytest.raises(ValueError, match="1 entry or more, got n=0"):
        Gaussian(0)
    with pytest.raises(ValueError, match="1 entry or more, got n=-1"):
        DiagonalGaussian(-1)
    with pytest.raises(ValueError, match="2 outcomes or more, got 1"):
        Categorical(1)
