"""Variational online Newton against exact posteriors, and Stein's estimate of a Hessian."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.manifolds.affine_invariant import geodesic
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.families.base import blr_step
from modula.manifolds.families.gaussian import Gaussian
from modula.manifolds.families.variational_newton import stein_hessian, von_step
from modula.manifolds.spd import SPD


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def point(n: int, seed: int = 0) -> Tensor:
    x = normal(n, n, seed=seed)
    return x @ x.mT + torch.eye(n, dtype=torch.float64)


def f64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_nine_observations_in_one_step_and_not_by_the_old_precision() -> None:
    """Prior precision .7, noise precision 2.3, nine observations: precision 21.4."""
    y = normal(9)
    mean, precision = f64(3.0), f64(1.6)[:, None]
    gradient, hessian = 9 * 2.3 * mean - 2.3 * y.sum(), f64(9 * 2.3)[:, None]
    new_mean, new = von_step(
        mean,
        precision,
        gradient,
        hessian,
        prior_precision=0.7,
        rate=1.0,
        retract=Euclidean().retract,
    )
    exact = 2.3 * y.sum() / 21.4
    assert_close(new, f64(21.4)[:, None])
    assert_close(new_mean, exact[None])
    by_old_precision = mean - (gradient + 0.7 * mean) / precision[0]
    assert (by_old_precision - exact).abs() > 10


def test_linear_regression_in_one_step_from_anywhere() -> None:
    x, y = normal(12, 4), normal(12, seed=1)
    posterior = x.mT @ x + 0.7 * torch.eye(4, dtype=torch.float64)
    for seed in (0, 1):
        mean = 5 * normal(4, seed=seed)
        gradient = x.mT @ (x @ mean - y)
        new_mean, new = von_step(
            mean,
            point(4, seed),
            gradient,
            x.mT @ x,
            prior_precision=0.7,
            rate=1.0,
            retract=Euclidean().retract,
        )
        assert_close(new, posterior)
        assert_close(new_mean, torch.linalg.solve(posterior, x.mT @ y))


def test_a_step_is_the_bayesian_learning_rule_on_a_gaussian() -> None:
    """Gradients in mean parameters (mu, E x x^T) are (-g + H mu, -H / 2): Bonnet, Price."""
    family, mean, precision, rate = Gaussian(3), normal(3), point(3), 0.3
    g, h = normal(3, seed=2), point(3, seed=3)
    prior = family.from_precision(f64(0, 0, 0), 0.7 * torch.eye(3, dtype=torch.float64))
    gradient = family.from_precision(mean - torch.linalg.solve(h, g), h)
    expected = blr_step(family.from_precision(mean, precision), prior, gradient, rate=rate)
    stepped = von_step(
        mean, precision, g, h, prior_precision=0.7, rate=rate, retract=Euclidean().retract
    )
    assert_close(family.from_precision(*stepped), expected)


@pytest.mark.parametrize(
    ("retract", "size"), [(SPD().retract, 1e3), (geodesic, 1.0)], ids=["second order", "geodesic"]
)
def test_the_precision_stays_positive_and_starts_out_straight(
    retract: Callable[[Tensor, Tensor], Tensor], size: float
) -> None:
    mean, precision, g, h = normal(3), point(3), normal(3, seed=2), -size * point(3, seed=3)
    _, new = von_step(mean, precision, g, h, rate=0.9, prior_precision=0.1, retract=retract)
    assert (torch.linalg.eigvalsh(new) > 0).all()
    t = 1e-7 / size
    _, near = von_step(mean, precision, g, h, rate=t, prior_precision=0.1, retract=retract)
    change = h + 0.1 * torch.eye(3, dtype=torch.float64) - precision
    assert_close((near - precision) / t, change, rtol=1e-4, atol=1e-4 * size)


def test_repeated_steps_find_the_posterior_of_a_quadratic() -> None:
    """The second-order retraction has the same fixed point: D = 0."""
    x, y = normal(12, 3), normal(12, seed=1)
    mean, precision = normal(3, seed=5), point(3)
    for _ in range(60):
        mean, precision = von_step(
            mean, precision, x.mT @ (x @ mean - y), x.mT @ x, prior_precision=0.7, rate=0.5
        )
    posterior = x.mT @ x + 0.7 * torch.eye(3, dtype=torch.float64)
    assert_close(precision, posterior, rtol=1e-6, atol=1e-6)
    assert_close(mean, torch.linalg.solve(posterior, x.mT @ y), rtol=1e-6, atol=1e-6)


def test_a_batch_is_a_loop() -> None:
    mean, g = normal(2, 3), normal(2, 3, seed=1)
    precision, h = torch.stack((point(3), point(3, 1))), torch.stack((point(3, 2), point(3, 3)))
    together = von_step(mean, precision, g, h, prior_precision=0.1, rate=0.3)
    for k in range(2):
        alone = von_step(mean[k], precision[k], g[k], h[k], prior_precision=0.1, rate=0.3)
        assert_close((together[0][k], together[1][k]), alone)
    deviations, gradients = normal(5, 2, 3), normal(5, 2, 3, seed=1)
    found = stein_hessian(gradients, deviations, precision)
    naive = sum(
        torch.outer(precision[1] @ d, gr)
        for d, gr in zip(deviations[:, 1], gradients[:, 1], strict=True)
    )
    assert_close(found[1], (naive + naive.mT) / 10)


def test_stein_finds_the_expected_hessian_and_the_fisher_surrogate_does_not() -> None:
    """f = w^T A w / 2 + sum w^4 / 12: E[Hessian] = A + diag(mu^2 + variance), g = A w + w^3 / 3."""
    a, mean, precision = point(3), f64(0.5, -1.0, 0.2), point(3, seed=1)
    covariance = torch.linalg.inv(precision)
    deviations = normal(200_000, 3) @ torch.linalg.cholesky(covariance).mT
    w = mean + deviations
    gradients = w @ a + w.pow(3) / 3
    expected = a + torch.diag(mean.square() + covariance.diagonal())
    found = stein_hessian(gradients, deviations, precision)
    one_by_one = (deviations @ precision)[:, :, None] * gradients[:, None, :]
    error = one_by_one.std(0) / 200_000**0.5
    assert ((found - expected).abs() < 5 * torch.maximum(error, error.mT)).all()
    surrogate = gradients.mT @ gradients / len(gradients)
    assert (surrogate - expected).norm() > 0.5 * expected.norm()
