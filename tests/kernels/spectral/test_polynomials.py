"""Coefficients: best by equioscillation, equal by two derivations, equal to the published."""

from math import prod, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from published_polynomials import JORDAN, YOU5, YOU6
from torch.testing import assert_close

from modula.kernels.spectral.polar import DEFAULT, DEFAULT_HALF, NEAR
from modula.kernels.spectral.polynomials import (
    CUSHION,
    PolarExpress,
    Polynomials,
    Term,
    closed_quintic,
)

# Amsel et al. 2025, arXiv:2505.16932, their listing: lower 1e-3, no safety.
PUBLISHED = (
    (8.287212, -23.595887, 17.300387),
    (4.107059, -2.947850, 0.544843),
    (3.948691, -2.908902, 0.551819),
    (3.318420, -2.488488, 0.510049),
    (2.300652, -1.668904, 0.418807),
    (1.891301, -1.267996, 0.376804),
    (1.875001, -1.250002, 0.375000),
    (15 / 8, -10 / 8, 3 / 8),
)


def remez_quintic(lower: float, upper: float) -> Term:
    """The odd quintic with the smallest max |1 - p| on [lower, upper], by Remez exchange.

    1 - p takes the values E, -E, E, -E at l < q < r < u, where p'(q) = p'(r) = 0: solve for
    (a, b, c, E), move q and r to the extrema, repeat.

    Source: Amsel et al. 2025, arXiv:2505.16932.
    """
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    points = [lower, (3 * lower + upper) / 4, (lower + 3 * upper) / 4, upper]
    error, before = 1.0, float("inf")
    for _ in range(100):
        x = torch.tensor(points, dtype=torch.float64)
        system = torch.stack((x, x**3, x**5, signs), dim=1)
        a, b, c, error = torch.linalg.solve(system, torch.ones_like(x)).tolist()
        if abs(error - before) < 1e-15:
            break
        before = error
        root = sqrt(max(9 * b * b - 20 * a * c, 0.0))
        points[1:3] = sqrt((-3 * b - root) / (10 * c)), sqrt((-3 * b + root) / (10 * c))
    return a, b, c


def grid(lower: float, upper: float = 1.0) -> torch.Tensor:
    return torch.linspace(lower, upper, 200_001, dtype=torch.float64)


def errors(term: Term, lower: float, upper: float) -> torch.Tensor:
    return 1 - Polynomials((term,))(grid(lower, upper))


@pytest.mark.parametrize(
    ("lower", "term", "error"),
    [
        (0.1, (5.60369451, -13.88369022, 9.73341261), 0.45341691),
        (1e-3, (8.4703288, -25.1080747, 18.6292756), 0.9915297),
        (0.6, (2.43039959, -2.58796624, 1.16753972), 0.00997307),
    ],
)
def test_quintic_oracles(lower: float, term: Term, error: float) -> None:
    assert_close(remez_quintic(lower, 1.0), term, rtol=0, atol=1e-7)
    assert_close(errors(term, lower, 1.0).abs().max().item(), error, rtol=0, atol=1e-7)


@given(st.floats(-6, -0.01), st.floats(-2, 2))
def test_remez_and_the_closed_form_agree(log_ratio: float, log_upper: float) -> None:
    upper = 10.0**log_upper
    lower = upper * 10.0**log_ratio
    assert_close(closed_quintic(lower, upper), remez_quintic(lower, upper), rtol=1e-9, atol=0)


@given(st.floats(1e-3, 0.97))
def test_the_error_equioscillates(lower: float) -> None:
    """q + 2 alternations of equal size: Chebyshev's condition for the unique best polynomial."""
    error = errors(closed_quintic(lower, 1.0), lower, 1.0)
    largest = error.abs().max()
    signs = error[error.abs() > largest * (1 - 1e-4)].sign()
    assert 1 + (signs.diff() != 0).sum() == 4


def test_a_narrow_interval_is_the_newton_schulz_step() -> None:
    narrow = (15 / 8 / 2, -10 / 8 / 8, 3 / 8 / 32)
    assert_close(closed_quintic(2 - 1e-6, 2.0), narrow, rtol=0, atol=0)
    assert_close(closed_quintic(2 - 2e-4, 2.0), narrow, rtol=1e-3, atol=0)


def test_published_list_without_safety() -> None:
    assert_close(PolarExpress(8, lower=1e-3).terms, PUBLISHED, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lower", [5e-4, 1e-3, 0.1])
def test_more_steps_than_needed_stay_at_one(lower: float) -> None:
    values = PolarExpress(14, lower=lower, cushion=0.0)(grid(lower))
    assert_close(values, torch.ones_like(values), rtol=0, atol=1e-14)


def test_published_list_with_safety_in_the_recursion() -> None:
    terms = PolarExpress(5, lower=1e-3, cushion=0.02, safety=1.02).terms
    assert_close(terms[0], (8.156555, -22.483293, 15.878770), rtol=0, atol=1e-5)
    assert_close(terms[-1], (2.346541, -1.709783, 0.423236), rtol=0, atol=1e-5)


def test_uncushioned_first_term_is_that_of_cans() -> None:
    first = PolarExpress(6, lower=1e-3, cushion=0.0).terms[0]
    assert_close(first, (8.4703, -25.1081, 18.6293), rtol=0, atol=1e-4)


def test_the_cushion_is_where_one_quintic_gains_a_factor_ten() -> None:
    error = errors(closed_quintic(CUSHION, 1.0), CUSHION, 1.0).abs().max().item()
    assert_close((1 - error) / (1 + error), 0.1, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("polynomials", "lower", "smallest", "largest", "slope"),
    [
        (JORDAN, 1e-2, 0.682, 1.134, 484.9),
        (JORDAN, 1e-3, 0.4705, 1.202, 484.9),
        (YOU5, 1e-2, 0.978, 1.032, 492.7),
        (YOU5, 1e-3, 0.475, 1.145, 492.7),
        (YOU6, 1e-2, 0.9956, 0.9993, 1137),
        (PolarExpress(5), 1e-3, 0.8764, 1.1236, None),
        (PolarExpress(5, cushion=0.0), 1e-3, 0.8866, 1.1134, 1049),
        (PolarExpress(6, cushion=0.0), 1e-3, 1 - 9.2e-4, 1 + 9.2e-4, 1981),
        (PolarExpress(7, cushion=0.0), 1e-3, 1 - 4.8e-10, 1 + 4.8e-10, 3715),
    ],
    ids=str,
)
def test_where_the_named_lists_send_the_unit_interval(
    polynomials: Polynomials, lower: float, smallest: float, largest: float, slope: float | None
) -> None:
    values = polynomials(grid(lower))
    assert_close(values.min().item(), smallest, rtol=0, atol=2e-3)
    assert values.max().item() < largest + 2e-3
    if slope is not None:
        assert_close(prod(a for a, _, _ in polynomials.terms), float(slope), rtol=1e-3, atol=0)


def test_six_and_seven_steps_reach_their_published_errors() -> None:
    for steps, error in ((6, 9.2e-4), (7, 4.8e-10)):
        values = PolarExpress(steps, cushion=0.0)(grid(1e-3))
        assert_close((values - 1).abs().max().item(), error, rtol=2e-2, atol=0)


def test_no_other_schedule_of_the_same_length_does_better() -> None:
    best = (PolarExpress(3, lower=0.05, cushion=0.0)(grid(0.05)) - 1).abs().max()
    generator = torch.Generator().manual_seed(0)
    terms = torch.tensor(PolarExpress(3, lower=0.05, cushion=0.0).terms)
    for _ in range(200):
        noise = 1 + 1e-2 * torch.randn(terms.shape, generator=generator)
        other = Polynomials(tuple(tuple(term) for term in (terms * noise).tolist()))
        assert (other(grid(0.05)) - 1).abs().max() > best


def test_without_safety_an_input_above_the_bound_explodes() -> None:
    assert PolarExpress(5)(1.01) > 1e90
    assert 0.85 < PolarExpress(5, safety=1.05)(1.01) < 1.15


@pytest.mark.parametrize(
    ("polynomials", "error"),
    [
        (DEFAULT, 5.87e-2),
        (DEFAULT_HALF, 8.71e-2),
        (NEAR, 1.18e-8),
        (PolarExpress(6, cushion=0.0), 9.2e-4),
        (PolarExpress(5, lower=3e-4, safety=1.01), 5.03e-1),
    ],
    ids=str,
)
def test_the_error_of_a_list_holds_from_its_lower_end_on(
    polynomials: Polynomials, error: float
) -> None:
    assert polynomials.error == pytest.approx(error, rel=2e-2)
    assert (polynomials(grid(polynomials.lower)) - 1).abs().max() <= 1.001 * error + 1e-2 * error
    assert polynomials(grid(0.0)).max() <= 1 + 1.01 * error  # what is smaller is not longer


def test_jordan_does_not_fix_one() -> None:
    a, b, c = JORDAN.terms[0]
    assert_close(a + b + c, 0.701, rtol=0, atol=1e-9)
    for fixed in (0.868, 1.2637):
        assert_close(Polynomials((JORDAN.terms[0],))(fixed), fixed, rtol=0, atol=2e-3)


def test_it_prints_as_it_is_called() -> None:
    assert str(JORDAN) == repr(JORDAN) == "JORDAN"
    assert str(PolarExpress(8)) == "PolarExpress(steps=8, lower=0.001, safety=1, schatten=2)"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: PolarExpress(0),
        lambda: PolarExpress(5, lower=0.0),
        lambda: closed_quintic(1.0, 0.5),
        lambda: Polynomials(()),
        lambda: Polynomials(JORDAN.terms, schatten=6),
        lambda: Polynomials(JORDAN.terms, safety=0.9),
    ],
)
def test_wrong_input_is_refused(wrong) -> None:
    with pytest.raises(ValueError):
        wrong()
