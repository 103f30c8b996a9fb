"""The ops of bias correction against naive loops in float64, and against what they estimate."""

from math import exp, lgamma

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.elementwise.whiten import whiten_plain
from modula.kernels.moments import bias_corrected as kernel
from modula.kernels.moments import root
from strategies import scales, seeds

POWERS = {1.0: 1.0, 0.5: 3 / 8, 0.25: 5 / 32}  # with the coefficients of the delta rule
ADAM = {"momentum": 0.9, "beta": 0.99, "power": 0.5, "floor": 1e-8}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("power", "coefficient"), POWERS.items())
def test_the_delta_rule_has_the_published_coefficients(power: float, coefficient: float) -> None:
    x, variance = draw(50).exp(), 0.3 * draw(50, seed=1).exp()
    expected = [
        max(a**-power - coefficient * a ** (-power - 2) * v, 0.0)
        for a, v in zip(x.tolist(), variance.tolist(), strict=True)
    ]
    assert min(expected) == 0.0 < max(expected)
    assert_close(kernel.less_bias(x, variance, power).tolist(), expected)


@pytest.mark.parametrize("power", POWERS)
def test_the_delta_rule_takes_nearly_all_of_the_bias_away(power: float) -> None:
    """Estimates x of 1, gamma distributed: E x^-p = k^p Gamma(k - p) / Gamma(k), variance 1 / k."""
    k = 100.0
    torch.manual_seed(0)
    x = torch.distributions.Gamma(torch.full((400_000,), k).double(), k).sample()
    bias = k**power * exp(lgamma(k - power) - lgamma(k)) - 1
    assert (x**-power).mean().item() - 1 == pytest.approx(bias, rel=0.1)
    left = kernel.less_bias(x, torch.full_like(x, 1 / k), power).mean().item() - 1
    assert abs(left) < bias / 10


@given(seed=seeds(), count=st.integers(2, 6))
def test_the_jackknife_of_a_mean_is_its_variance(seed: int, count: int) -> None:
    parts = draw(count, 3, seed=seed)
    assert_close(kernel.jackknife(kernel.without_each(parts)), parts.var(0) / count)
    for r in range(count):
        rest = torch.cat([parts[:r], parts[r + 1 :]])
        assert_close(kernel.without_each(parts)[r], rest.mean(0))


def naive_cross_fitted(
    before: float, parts: list[float], square: float, step: int, b1: float, b2: float, eps: float
) -> float:
    """One entry, with averages that begin at zero and are divided by 1 - beta^step."""
    count, full = len(parts), sum(parts) / len(parts)
    first, third, mean, spread = 0.0, 0.0, 0.0, 0.0
    for r, g in enumerate(parts, 1):
        rest = (count * full - g) / (count - 1)
        x = ((b2 * square + (1 - b2) * rest**2) / (1 - b2**step)) ** 0.5 + eps
        m = (b1 * before + (1 - b1) * g) / (1 - b1**step)
        first, third = first + m / x / count, third + m / x**3 / count
        gap = x - mean
        mean += gap / r
        spread += gap * (x - mean)
    corrected = first - spread / (count - 1) * third
    return 0.0 if corrected * first < 0 else min(corrected, first, key=abs)


@pytest.mark.parametrize(("step", "b1", "b2"), [(1, 0.9, 0.99), (3, 0.9, 0.6), (40, 0.0, 0.3)])
def test_cross_fitting_is_the_loop_over_entries_and_microbatches(
    step: int, b1: float, b2: float
) -> None:
    parts, eps, young = draw(5, 60), 1e-3, step == 1
    before = torch.zeros(60).double() if young else draw(60, seed=1)
    square = torch.zeros(60).double() if young else draw(60, seed=2).square()
    found = kernel.cross_fitted_plain(
        (b1 * before + (1 - b1) * parts.mean(0)) / (1 - b1**step),
        parts,
        square / (1 - b2 ** max(step - 1, 1)),
        torch.tensor(float(step)),
        **{"momentum": b1, "beta": b2, "power": 0.5, "floor": eps},
    )
    rows = zip(before.tolist(), parts.T.tolist(), square.tolist(), strict=True)
    expected = [naive_cross_fitted(m, gs, s, step, b1, b2, eps) for m, gs, s in rows]
    assert 0.0 in expected, "no entry was turned around"
    assert_close(found.tolist(), expected)


@pytest.mark.parametrize("size", [1e-22, 1e-12, 1e12])
def test_the_direction_has_no_unit_in_float32(size: float) -> None:
    parts, square = size * draw(4, 9).float(), (size * draw(9, seed=1).float()).square()
    options = {**ADAM, "floor": 0.0}
    found = kernel.cross_fitted_plain(parts.mean(0), parts, square, torch.tensor(3.0), **options)
    unit = parts.double() / size
    expected = kernel.cross_fitted_plain(
        unit.mean(0), unit, square.double() / size**2, torch.tensor(3.0), **options
    )
    assert found.isfinite().all()
    if size > 1e-18:  # below, squares underflow, as in Adam itself
        assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [4, 8, 32])
def test_the_first_step_on_noise_is_about_as_long_as_adams(count: int) -> None:
    """Where a denominator may be near zero by chance, the uncorrected mean has no variance."""
    parts, zero = draw(count, 20_000), torch.zeros(20_000).double()
    found = kernel.cross_fitted_plain(parts.mean(0), parts, zero, torch.tensor(1.0), **ADAM)
    assert found.abs().max() < 10
    assert 0.4 < found.square().mean().sqrt() < 2


@given(seed=seeds(), scale=scales())
def test_equal_microbatches_leave_adams_direction(seed: int, scale: float) -> None:
    gradient, square = scale * draw(7, seed=seed), (scale * draw(7, seed=seed + 1)).square()
    query, step = scale * draw(7, seed=seed + 2), torch.tensor(9.0)
    found = kernel.cross_fitted_plain(query, gradient.expand(4, 7), square, step, **ADAM)
    weight = (1 - 0.99) / (1 - 0.99**9)
    advanced = square + weight * (gradient.square() - square)
    assert_close(found, whiten_plain(query, advanced, power=0.5, floor=1e-8))


def test_what_one_microbatch_alone_says_moves_nothing() -> None:
    parts = torch.zeros(4, 2)
    parts[1, 0] = 1e-2
    first = torch.tensor(1.0)
    found = kernel.cross_fitted_plain(parts.mean(0), parts, torch.zeros(2), first, **ADAM)
    assert found.tolist() == [0.0, 0.0]
    floorless = {**ADAM, "floor": 0.0}
    found = kernel.cross_fitted_plain(parts.mean(0), parts, torch.zeros(2), first, **floorless)
    assert found.tolist() == [0.0, 0.0]


@given(seed=seeds(), factor=st.sampled_from([1.0, -1.0, 0.25, 1e-6]), scale=scales())
def test_parts_follow_what_was_done_to_the_gradient(seed: int, factor: float, scale: float) -> None:
    parts = scale * draw(3, 2, 4, seed=seed)
    found = kernel.as_stepped_plain(factor * parts.mean(0), parts)
    assert_close(found, factor * parts, rtol=1e-10, atol=0)
    opposite = torch.stack([parts[0], -parts[0]])
    assert torch.equal(kernel.as_stepped_plain(torch.zeros(2, 4).double(), opposite), opposite)


def test_over_lists_each_weight_is_done_by_itself() -> None:
    gradients, parts = [draw(3), draw(5)], [draw(2, 3), draw(4, 5)]
    found = kernel.as_stepped.foreach(gradients, parts)
    for one, gradient, own in zip(found, gradients, parts, strict=True):
        assert torch.equal(one, kernel.as_stepped_plain(gradient, own))


def test_sampled_squares_average_those_of_each_microbatch() -> None:
    square, parts = draw(6).square(), draw(4, 6, seed=1)
    found = kernel.average_part_squares_plain(square, parts, beta=0.7)
    assert_close(found, 0.7 * square + 0.3 * (parts**2).sum(0) / 16)


def test_a_corrected_inverse_is_the_loop_over_microbatches() -> None:
    """Each microbatch's own denominator from the average before; their variance, by M, of x."""
    before, parts, how = draw(40).square(), draw(4, 40, seed=1), {"batch": 3.0, "power": 1.0}
    square = kernel.average_part_squares_plain(before, parts, beta=0.5)
    found = kernel.corrected_inverse_plain(square, parts, beta=0.5, floor=0.01, **how)
    each = [3 * (0.5 * before + 0.5 * g**2 / 4) + 0.01 for g in parts]
    mean = sum(each) / 4
    variance = sum((x - mean) ** 2 for x in each) / (4 * 3)
    assert_close(mean, 3 * square + 0.01)
    assert_close(found, (1 / mean - variance / mean**3).clamp(min=0))


def naive_root(
    factor: Tensor, parts: Tensor, weight: float, power: float, damping: float
) -> Tensor:
    """The corrected root of a left factor, eigenvalue by eigenvalue: damping is absolute."""
    values, basis = torch.linalg.eigh(factor)
    count, total = len(parts), torch.zeros_like(factor)
    for k, value in enumerate(values):
        column, x = basis[:, k], value + damping
        each = []
        for r in range(count):
            rest = torch.cat([parts[:r], parts[r + 1 :]]).mean(0)
            left = factor + weight * (rest @ rest.T - factor)
            each.append(column @ left @ column)
        mean = sum(each) / count
        variance = (count - 1) / count * sum((e - mean) ** 2 for e in each)
        root = x**-power - power * (power + 1) / 2 * x ** (-power - 2) * variance
        total += max(root.item(), 0.0) * torch.outer(column, column)
    return total


def gram_average(parts: Tensor, weight: float, seed: int) -> Tensor:
    """A factor that has just seen the mean of the parts, with this weight."""
    before, mean = draw(parts.shape[-2], 9, seed=seed), parts.mean(0)
    return (1 - weight) * before @ before.T / 9 + weight * mean @ mean.T


@pytest.mark.parametrize("blocks", [0, 2])
@pytest.mark.parametrize("unbiased", [True, False])
def test_a_corrected_root_is_the_loop_over_eigenvalues(unbiased: bool, blocks: int) -> None:
    """In a batch of two weights of one block, or of 1 x 3 blocks, each as if it were alone."""
    counted, beta = (1, 3)[: 2 * (blocks > 0)], 0.6
    seen = torch.full((2, *counted), 2.0).double()
    weight = (1 - beta) / (1 - beta**2) if unbiased else 1 - beta
    parts = draw(2, 4, *counted, 5, 3)
    flat = parts.flatten(2, 1 + blocks).movedim(2, 1) if blocks else parts.unsqueeze(1)
    stack = flat.flatten(0, 1)
    factors = torch.stack([gram_average(p, weight, i) for i, p in enumerate(stack)])
    shape = (2, *counted, 5, 5)
    options = {"beta": beta, "unbiased": unbiased, "power": 0.25, "damping": 0.1}
    found = kernel.corrected_root(
        factors.reshape(shape), torch.zeros(shape).double(), seen, parts,
        blocks=blocks, dim=-2, ndim=2, share=1.0, **options,
    )  # fmt: skip
    expected = [
        naive_root(f, p, weight, 0.25, 0.1 * f.trace().item() / 5)
        for f, p in zip(factors, stack, strict=True)
    ]
    assert_close(found, torch.stack(expected).reshape(shape))
    plain = root.inverse_root_plain(
        factors.reshape(shape), torch.zeros(shape), power=0.25, damping=0.1
    )
    assert (found - plain).abs().max() > 1e-3


def test_a_corrected_root_of_diagonals_is_that_of_diagonal_matrices() -> None:
    parts = torch.diag_embed(draw(4, 6))  # where no two entries share a row or a column
    weight = 1 - 0.8
    factor = (1 - weight) + weight * parts.mean(0).square().diagonal()
    seen = torch.tensor(3.0).double()
    options = {"beta": 0.8, "unbiased": False, "power": 0.5, "damping": 1e-3}
    options |= {"blocks": 0, "dim": -1, "ndim": 2, "share": 1.0}
    found = kernel.corrected_root_diagonal(factor, torch.zeros(6), seen, parts, **options)
    dense = kernel.corrected_root(factor.diag(), torch.zeros(6, 6), seen, parts, **options)
    assert_close(found, dense.diagonal())
    assert_close(dense, dense.diagonal().diag())


def test_a_factor_that_cannot_be_decomposed_keeps_its_root() -> None:
    previous = draw(2, 2)
    options = {"blocks": 0, "dim": -2, "ndim": 2, "share": 1.0, "beta": 0.9, "unbiased": True}
    options |= {"power": 0.25, "damping": 1e-6}
    for bad in (torch.full((2, 2), torch.inf).double(), torch.zeros(2, 2).double()):
        found = kernel.corrected_root(bad, previous, torch.ones(()), draw(3, 2, 4), **options)
        assert torch.equal(found, previous)
