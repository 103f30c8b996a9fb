"""The ops of IVON against their formulas, and against what they estimate."""

from math import exp
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.elementwise import averages, update
from modula.kernels.moments import ivon
from modula.kernels.op import Locality, Op

ESS, DELTA, BETA = 50.0, 1e-2, 0.9


def tensors(
    seed: int, *, positive: bool = False, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = [torch.randn(3 + k, 4, generator=generator, dtype=dtype) for k in range(3)]
    return [x.exp() if positive else x for x in found]


def sigma(h: Tensor) -> Tensor:
    return 1 / (ESS * (h + DELTA)) ** 0.5


GAUSSIAN = {"ess": ESS, "delta": DELTA}
# Each op, its arguments, its options, and its formula.
CASES: dict[str, tuple[Op, list[list[Tensor]], dict[str, Any], Any]] = {
    "stein_hessian": (
        ivon.stein_hessian,
        [tensors(0), tensors(2, positive=True)],
        GAUSSIAN,
        lambda p, h: p / sigma(h) ** 2,
    ),
    "positive_average": (
        ivon.positive_average,
        [tensors(2, positive=True), tensors(0)],
        {"beta": BETA, "delta": DELTA},
        lambda h, f: 0.9 * h + 0.1 * f + 0.5 * 0.1**2 * (h - f) ** 2 / (h + DELTA),
    ),
    "posterior_direction": (
        ivon.posterior_direction,
        [tensors(0), tensors(1), tensors(2, positive=True)],
        {"delta": DELTA, "clip": 1.5},
        lambda m, w, h: ((m + DELTA * w) / (h + DELTA)).clamp(-1.5, 1.5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_both_twins_are_the_formula(name: str) -> None:
    op, reads, options, formula = CASES[name]
    rows = list(zip(*reads, strict=True))
    expected = [formula(*row) for row in rows]
    assert_close([op.plain(*row, **options) for row in rows], expected, rtol=1e-12, atol=1e-12)
    assert op.foreach is not None and op.locality is Locality.ELEMENTWISE
    lists = [[x.clone() for x in read] for read in reads]
    found = op.foreach(*lists, **options)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert_close(lists, [found, *reads[1:]] if op.writes_first else reads)


@pytest.mark.parametrize("name", CASES)
def test_float32_is_near_float64(name: str) -> None:
    op, reads, options, formula = CASES[name]
    for row in zip(*reads, strict=True):
        low = op.plain(*(x.float() for x in row), **options)
        assert low.dtype == torch.float32
        assert_close(low.double(), formula(*row), rtol=1e-4, atol=1e-4)


@given(
    h=st.floats(0, 1e3), x=st.floats(-1e6, 1e6), beta=st.floats(0, 1), delta=st.floats(1e-6, 1.0)
)
def test_the_average_stays_positive(h: float, x: float, beta: float, delta: float) -> None:
    state, observed = (torch.tensor(y, dtype=torch.float64) for y in (h, x))
    found = ivon.positive_average(state, observed, beta=beta, delta=delta)
    rounding = 1e-14 * (abs(h) + abs(x) + abs(x) ** 2 / (h + delta))
    assert found + delta >= (state + delta) / 2 - rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_hessian_of_minus_a_thousand_and_a_short_memory(dtype: torch.dtype) -> None:
    h = torch.tensor([1.0, 1e-3, 0.0], dtype=dtype)
    found = ivon.positive_average(h, torch.full_like(h, -1e3), beta=0.1, delta=1e-4)
    assert (found + 1e-4 > 0).all() and found.isfinite().all()


def test_the_average_is_the_exponential_retraction_to_third_order() -> None:
    h, x = torch.tensor(2.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)
    s, errors = 2.0 + DELTA, []
    for k in range(4):
        beta = 1 - 1e-2 * 0.5**k
        d = (1 - beta) * (-3.0 - 2.0)
        found = ivon.positive_average(h, x, beta=beta, delta=DELTA)
        errors.append(abs(found.item() + DELTA - s * exp(d / s)))
    slope = torch.log2(torch.tensor(errors[0] / errors[-1])) / 3
    assert_close(slope, torch.tensor(3.0), atol=0.05, rtol=0)


def test_stein_finds_the_hessian_of_a_quadratic_whatever_h() -> None:
    """Loss H w^2 / 2 of each example: E f = H for every h."""
    truth = torch.tensor([0.3, 2.0, 40.0], dtype=torch.float64)
    weight = torch.tensor([1.0, -2.0, 0.1], dtype=torch.float64)
    noise = torch.randn(100_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for h in (torch.full_like(truth, 0.5), 3 * truth):
        drawn = weight + sigma(h) * noise
        product = truth * drawn * (drawn - weight)
        found = ivon.stein_hessian(product, h, ess=ESS, delta=DELTA)
        error = found.std(0) / 100_000**0.5
        assert ((found.mean(0) - truth).abs() < 5 * error).all()


def test_the_right_hessian_is_a_fixed_point() -> None:
    h = torch.tensor([0.3, 2.0], dtype=torch.float64)
    assert torch.equal(ivon.positive_average(h, h, beta=0.7, delta=DELTA), h)


def test_nothing_over_nothing_is_nothing() -> None:
    """No prior and a flat loss: no NaN, no step."""
    zero = torch.zeros(3)
    averaged, direction = ivon.positive_average, ivon.posterior_direction
    assert averaged.foreach is not None and direction.foreach is not None
    for found in (
        averaged(zero, zero, beta=0.9, delta=0.0),
        averaged.foreach([0 * zero], [zero], beta=0.9, delta=0.0)[0],
        direction(zero, zero, zero, delta=0.0, clip=1.0),
        direction.foreach([zero], [zero], [zero], delta=0.0, clip=float("inf"))[0],
    ):
        assert torch.equal(found, zero)


def test_the_ops_together_find_the_posterior_of_a_quadratic() -> None:
    """Loss H (w - t)^2 / 2 of each example: h = H and mean H t / (H + delta), from samples."""
    torch.manual_seed(0)
    truth, target = torch.tensor([0.3, 2.0, 5.0]), torch.tensor([1.0, -2.0, 0.5])
    mean, h, momentum, delta = torch.zeros(3), torch.ones(3), torch.zeros(3), 0.1
    for k in range(3000):
        noise = torch.randn(3)
        drawn = mean + noise / (ESS * (h + delta)) ** 0.5
        gradient = truth * (drawn - target)
        seen = ivon.stein_hessian(gradient * (drawn - mean), h, ess=ESS, delta=delta)
        h = ivon.positive_average(h, seen, beta=0.999, delta=delta)
        momentum = averages.unbiased_average(momentum, gradient, torch.tensor(k + 1.0), beta=0.9)
        direction = ivon.posterior_direction(momentum, mean, h, delta=delta, clip=1.0)
        mean = update.step(mean, direction, torch.tensor(0.1 * (1 - k / 3000)))
    assert_close(h, truth, rtol=0.25, atol=0)
    assert_close(mean, truth * target / (truth + delta), rtol=0.05, atol=0)
