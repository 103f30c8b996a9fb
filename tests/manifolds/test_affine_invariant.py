"""Geodesics and normal coordinates of SPD matrices, against roots, logarithms and Fisher."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.manifolds.affine_invariant import (
    NormalCoordinates,
    affine_inner,
    factor_step,
    geodesic,
)
from modula.manifolds.families.gaussian import Gaussian
from modula.manifolds.spd import SPD


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def point(n: int, seed: int = 0) -> Tensor:
    x = normal(n, n, seed=seed)
    return x @ x.mT + torch.eye(n, dtype=torch.float64)


def symmetric(n: int, seed: int = 1) -> Tensor:
    x = normal(n, n, seed=seed)
    return x + x.mT


def power(s: Tensor, exponent: float) -> Tensor:
    values, basis = torch.linalg.eigh(s)
    return (basis * values**exponent) @ basis.mT


def test_geodesic_is_the_formula_of_roots() -> None:
    s, d = point(4), symmetric(4)
    root, inverse = power(s, 0.5), power(s, -0.5)
    expected = root @ torch.linalg.matrix_exp(inverse @ d @ inverse) @ root
    assert_close(geodesic(s, d), expected)
    assert_close(geodesic(s, 0 * d), s)
    assert_close(geodesic(torch.stack((s, s)), torch.stack((d, -d)))[0], expected)


def test_geodesic_has_constant_speed() -> None:
    """Its velocity at t is S(t) S^-1 D, and the metric measures the same length all along."""
    s, d = point(3), symmetric(3)
    lengths = []
    for t in (0.0, 0.4, 1.0):
        there = geodesic(s, t * d)
        velocity = there @ torch.linalg.solve(s, d)
        lengths.append(affine_inner(there, velocity, velocity))
    assert_close(torch.stack(lengths), lengths[0].expand(3))


def test_the_metric_is_fishers_of_a_gaussian_in_its_precision() -> None:
    family, s, u, v = Gaussian(3), point(3), symmetric(3), symmetric(3, seed=2)
    mean = torch.zeros(3, dtype=torch.float64)
    natural = family.from_precision(mean, s)  # linear in s at mean 0
    found = family.inner(natural, family.from_precision(mean, u), family.from_precision(mean, v))
    assert_close(affine_inner(s, u, v), found)


@pytest.mark.parametrize("triangular", [True, False])
def test_the_fisher_metric_is_constant_in_normal_coordinates(triangular: bool) -> None:
    """N(mu + B^-T a, (B exp(X) B^T)^-1): at (0, 0) Fisher's metric is |a|^2 + ||X||^2 / 2."""
    family, mean = Gaussian(3), normal(3)
    factor = torch.linalg.cholesky(point(3)) if triangular else normal(3, 3, seed=4)
    a, x = normal(3, seed=2), symmetric(3)
    s = factor @ factor.mT

    def moved(t: Tensor) -> Tensor:
        # exp(t x) to second order: eigh cannot be differentiated at t = 0
        line = t * x + (t * x) @ (t * x) / 2
        shift = torch.linalg.solve(factor.mT, t * a)
        return family.from_precision(mean + shift, s + factor @ line @ factor.mT)

    velocity = torch.func.jacrev(moved)(torch.zeros((), dtype=torch.float64))
    natural = family.from_precision(mean, s)
    length = family.inner(natural, velocity, velocity)
    assert_close(length, a.square().sum() + x.square().sum() / 2)


def test_normal_coordinates_go_there_and_back() -> None:
    chart, x, d = NormalCoordinates(normal(3, 3)), symmetric(3), symmetric(3, seed=3)
    assert_close(chart.coordinates(chart.point(x)), x)
    assert_close(chart.to_tangent(chart.from_tangent(d)), d)
    s = chart.factor @ chart.factor.mT
    assert_close(chart.point(chart.from_tangent(d)), geodesic(s, d))
    # the metric at S is <X, Y> / 2
    there = affine_inner(s, d, chart.to_tangent(x))
    assert_close((chart.from_tangent(d) * x).sum() / 2, there)


def test_the_gradient_in_normal_coordinates_is_the_natural_one() -> None:
    """Plain descent in X moves S by -S G S, which is the natural gradient up to the constant 2."""
    factor, g = torch.linalg.cholesky(point(3)), symmetric(3)
    chart, s = NormalCoordinates(factor), factor @ factor.mT
    natural = 2 * chart.to_tangent(chart.gradient(g))
    assert_close(natural, 2 * s @ g @ s)
    for seed in (5, 6):  # Riesz: <natural, v>_S = tr(G v)
        v = symmetric(3, seed=seed)
        assert_close(affine_inner(s, natural, v), (g * v).sum())


def test_the_step_of_a_factor_agrees_with_the_geodesic_to_second_order() -> None:
    factor, d = torch.linalg.cholesky(point(4)), symmetric(4)
    s = factor @ factor.mT
    for step in (lambda d: SPD().retract(s, d), lambda d: _square(factor_step(factor, d))):
        lengths = [1e-2 * 0.5**k for k in range(4)]
        errors = [(step(t * d) - geodesic(s, t * d)).norm() for t in lengths]
        slope = torch.log2(errors[0] / errors[-1]) / 3
        assert_close(slope, torch.tensor(3.0, dtype=torch.float64), atol=0.05, rtol=0)


@pytest.mark.parametrize("length", [1.0, 1e2, 1e4])
def test_a_factor_stays_invertible_and_keeps_its_blocks(length: float) -> None:
    factor = torch.block_diag(normal(2, 2), normal(3, 3))
    d = torch.block_diag(symmetric(2), symmetric(3))
    moved = factor_step(factor, length * d)
    assert_close(moved[:2, 2:], torch.zeros(2, 3, dtype=torch.float64))
    assert_close(moved[2:, :2], torch.zeros(3, 2, dtype=torch.float64))
    # B h(X) with h >= 1/2: no singular value shrinks below half the smallest of B
    smallest = torch.linalg.svdvals(moved)[-1]
    assert smallest >= torch.linalg.svdvals(factor)[-1] / 2 * (1 - 1e-9)


def _square(factor: Tensor) -> Tensor:
    return factor @ factor.mT
