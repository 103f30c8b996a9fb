"""Odd polynomials whose composition sends every singular value towards one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod, sqrt
from typing import TypeVar

import torch
from torch import Tensor

Term = tuple[float, float, float]
Number = TypeVar("Number", float, Tensor)

# The ratio lower / upper at which one quintic still reaches (1 - E) / (1 + E) = 0.1, E = 9 / 11.
CUSHION = 0.02407327424182761

# Below this relative width the equioscillating quintic is its limit to all digits of a float64.
NARROW = 5e-6


@dataclass(frozen=True)
class Polynomials:
    """p_T o ... o p_1 with p(s) = a s + b s^3 + c s^5, and what its input is to be divided by.

    terms      the (a, b, c) of p_1, ..., p_T; c = 0 makes a cubic, which needs one product less
    schatten   2, 4 or 8: the input is divided by safety * (sum of sigma_i^schatten)^(1/schatten),
               an upper bound on sigma_max; a list made for one of them is not right for another
    safety     >= 1: room for rounding, which can push a singular value above its bound
    name       how it prints
    """

    terms: tuple[Term, ...]
    schatten: int = 2
    safety: float = 1.0
    name: str = "Polynomials"

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("Polynomials needs at least one (a, b, c); got none")
        if self.schatten not in (2, 4, 8):
            raise ValueError(f"schatten can be 2 (Frobenius), 4 or 8; got {self.schatten}")
        if not self.safety >= 1:
            raise ValueError(f"safety is a factor >= 1 on the bound; got {self.safety}")

    def __call__(self, sigma: Number) -> Number:
        """The composition, on numbers already divided by the bound."""
        for a, b, c in self.terms:
            square = sigma * sigma
            sigma = sigma * (a + square * (b + c * square))
        return sigma

    def __iter__(self) -> Iterator[Term]:
        return iter(self.terms)

    def __len__(self) -> int:
        return len(self.terms)

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    @property
    def slope(self) -> float:
        """Derivative at 0: how much the smallest singular values grow."""
        return prod(a for a, _, _ in self.terms)

    def with_safety(self, safety: float) -> "Polynomials":
        """p(s / safety) for all but the last term, and the input divided by safety.

        The last term stays as it is: it has nothing after it that could diverge, and shrinking
        it would only move the result below one.
        """
        last = len(self) - 1
        safe = tuple(_shrunk(t, safety) if i < last else t for i, t in enumerate(self.terms))
        return replace(
            self,
            terms=safe,
            safety=self.safety * safety,
            name=f"{self.name}.with_safety({safety:g})",
        )


def _shrunk(term: Term, factor: float) -> Term:
    """Coefficients of s -> p(s / factor)."""
    a, b, c = term
    return a / factor, b / factor**3, c / factor**5


def _value(term: Term, x: float) -> float:
    a, b, c = term
    return x * (a + x * x * (b + c * x * x))


def _check_interval(lower: float, upper: float) -> None:
    if not 0 < lower <= upper:
        raise ValueError(f"needs an interval 0 < lower <= upper; got [{lower}, {upper}]")


def best_cubic(lower: float, upper: float) -> Term:
    """The odd cubic with the smallest max |1 - p| on [lower, upper], in closed form.

    alpha = sqrt(3 / (u^2 + l u + l^2)),  beta = 4 / (2 + l u (l + u) alpha^3)
    p(x) = beta (3/2 alpha x - 1/2 alpha^3 x^3)

    Source: Chen and Chow 2014; Amsel et al. 2025, arXiv:2505.16932.
    """
    _check_interval(lower, upper)
    alpha = sqrt(3 / (upper**2 + lower * upper + lower**2))
    beta = 4 / (2 + lower * upper * (lower + upper) * alpha**3)
    return 1.5 * beta * alpha, -0.5 * beta * alpha**3, 0.0


def _narrow_quintic(upper: float) -> Term:
    """The limit lower -> upper: the quintic Newton-Schulz step, scaled to fix `upper`."""
    return _shrunk((15 / 8, -10 / 8, 3 / 8), upper)


def remez_quintic(lower: float, upper: float) -> Term:
    """The odd quintic with the smallest max |1 - p| on [lower, upper], by Remez exchange.

    1 - p takes the values E, -E, E, -E at l < q < r < u, where p'(q) = p'(r) = 0: solve for
    (a, b, c, E), move q and r to the extrema, repeat.

    Source: Amsel et al. 2025, arXiv:2505.16932.
    """
    _check_interval(lower, upper)
    if lower / upper >= 1 - NARROW:
        return _narrow_quintic(upper)
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


def closed_quintic(lower: float, upper: float) -> Term:
    """The same quintic by one scalar equation.

    With p(l) = p(r) and p'(r) = 0,  p(x) - p(l) = c (x - r)^2 (x - l) (x^2 + (2r + l) x + beta);
    that p has no even powers gives beta, a / c, b / c and the other extremum q, and r in (l, u)
    is where p(q) = p(u).  Centring, p(l) + p(u) = 2, gives c.
    """
    _check_interval(lower, upper)
    if lower / upper >= 1 - NARROW:
        return _narrow_quintic(upper)
    left, right = lower, upper
    for _ in range(100):
        middle = (left + right) / 2
        term, q = _double_root_quintic(lower, middle)
        left, right = (middle, right) if _value(term, q) < _value(term, upper) else (left, middle)
    term, _ = _double_root_quintic(lower, (left + right) / 2)
    return _centred(term, lower, upper)


def _double_root_quintic(lower: float, r: float) -> tuple[Term, float]:
    """The monic p with p(lower) = p(r), p'(r) = 0, and its other extremum q < r."""
    s, t, v = 2 * r + lower, r * r + 2 * r * lower, r * r * lower
    beta = t - v / s
    b = beta - s * s + t
    return (beta * t - s * v, b, 1.0), sqrt(max(-0.6 * b - r * r, 0.0))


def _centred(term: Term, lower: float, upper: float) -> Term:
    """p scaled so that its least value, at lower, and its largest are equally far from one."""
    a, b, c = term
    peak = upper if c else sqrt(-a / (3 * b))  # a quintic is as large at upper as between
    factor = 2 / (_value(term, lower) + _value(term, peak))
    return factor * a, factor * b, factor * c


@lru_cache(maxsize=64)
def PolarExpress(
    steps: int = 5,
    lower: float = 1e-3,
    cushion: float = CUSHION,
    safety: float = 1.0,
    schatten: int = 2,
    degree: int = 5,
) -> Polynomials:
    """The `steps` odd polynomials with the least max |1 - p_T(... p_1(s))| over [lower, 1].

    Greedy is optimal: p_t is the best polynomial on the interval [l_t, u_t] that the ones before
    leave, and then l_{t+1} = p_t(l_t), u_{t+1} = 2 - l_{t+1}.  It is fitted on
    [max(l_t, cushion u_t), u_t] instead and re-centred, which keeps the first steps from lifting
    the smallest values at the price of bending the middle; `safety` > 1 is put into the recursion:
    every term but the last is p_t(s / safety).

    lower     the smallest singular value, relative to the bound, that has to arrive
    degree    5, or 3 for cubics

    Source: Amsel, Persson, Musco, Gower 2025, arXiv:2505.16932.
    """
    if steps < 1 or not 0 < lower < 1 or degree not in (3, 5):
        raise ValueError(
            "PolarExpress needs steps >= 1, 0 < lower < 1 and degree 3 or 5; "
            f"got steps={steps}, lower={lower}, degree={degree}"
        )
    best = closed_quintic if degree == 5 else best_cubic
    low, high, terms = lower, 1.0, []
    for step in range(steps):
        term = _centred(best(max(low, cushion * high), high), low, high)
        term = term if step == steps - 1 else _shrunk(term, safety)
        terms.append(term)
        low = min(_value(term, low), 1.0)  # rounding may carry it past one
        high = 2 - low
    name = f"PolarExpress(steps={steps}, lower={lower:g}, safety={safety:g}, schatten={schatten})"
    return Polynomials(tuple(terms), schatten, safety, name)


def NewtonSchulz(steps: int, degree: int = 5, schatten: int = 2) -> Polynomials:
    """The classical iteration: the odd polynomial that is flattest at its fixed point 1.

    degree 3: (3 s - s^3) / 2          degree 5: (15 s - 10 s^3 + 3 s^5) / 8

    Source: Bjorck and Bowie 1971; Kovarik 1970.
    """
    classical = {3: (1.5, -0.5, 0.0), 5: (15 / 8, -10 / 8, 3 / 8)}
    if degree not in classical or steps < 1:
        raise ValueError(f"needs steps >= 1 and degree 3 or 5; got steps={steps}, degree={degree}")
    name = f"NewtonSchulz(steps={steps}, degree={degree})"
    return Polynomials((classical[degree],) * steps, schatten, name=name)


# Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (blog).
# Steep at zero, not convergent: [0.01, 1] goes to [0.68, 1.13].
JORDAN = Polynomials(((3.4445, -4.7750, 2.0315),) * 5, name="JORDAN")

# Source: You Jiacheng 2025, published in the discussion of modded-nanogpt.
YOU5 = Polynomials(
    (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    name="YOU5",
)

# Same source: six steps, printed in units of 1 / 1024.
YOU6 = Polynomials(
    tuple(
        (a / 1024, b / 1024, c / 1024)
        for a, b, c in (
            (3955, -8306, 5008),
            (3735, -6681, 3463),
            (3799, -6499, 3211),
            (4019, -6385, 2906),
            (2677, -3029, 1162),
            (2172, -1833, 682),
        )
    ),
    name="YOU6",
)
