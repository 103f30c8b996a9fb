"""Odd polynomials whose composition sends every singular value towards one."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import log10, sqrt
from typing import TypeVar

import torch
from torch import Tensor

Term = tuple[float, float, float]
Number = TypeVar("Number", float, Tensor)

# The ratio lower / upper at which one quintic still reaches (1 - E) / (1 + E) = 0.1, E = 9 / 11.
CUSHION = 0.02407327424182761

# Below this relative width the equioscillating quintic is its limit to all digits of a float64.
NARROW = 5e-6

POINTS = 20_001  # at which the error of a list is measured


@dataclass(frozen=True)
class Polynomials:
    """p_T o ... o p_1 with p(s) = a s + b s^3 + c s^5, and what its input is to be divided by.

    terms      the (a, b, c) of p_1, ..., p_T
    schatten   2, 4 or 8: the input is divided by safety * (sum of sigma_i^schatten)^(1/schatten),
               an upper bound on sigma_max; a list made for one of them is not right for another
    safety     >= 1: room for rounding, which can push a singular value above its bound
    lower      the smallest singular value, relative to the bound, that has to arrive
    name       how it prints
    """

    terms: tuple[Term, ...]
    schatten: int = 2
    safety: float = 1.0
    name: str = "Polynomials"
    lower: float = 1e-3

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

    @cached_property
    def error(self) -> float:
        """max |1 - p(s)| over lower <= s <= 1; below it p(s) is no larger than 1 + error."""
        # Logarithmic, as the polynomials are steep near `lower`.
        sigma = torch.logspace(log10(self.lower), 0, POINTS, dtype=torch.float64)
        return float((1 - self(sigma)).abs().max())

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


def _shrunk(term: Term, factor: float) -> Term:
    """Coefficients of s -> p(s / factor)."""
    a, b, c = term
    return a / factor, b / factor**3, c / factor**5


def _value(term: Term, x: float) -> float:
    a, b, c = term
    return x * (a + x * x * (b + c * x * x))


def _narrow_quintic(upper: float) -> Term:
    """The limit lower -> upper: the quintic Newton-Schulz step, scaled to fix `upper`."""
    return _shrunk((15 / 8, -10 / 8, 3 / 8), upper)


def closed_quintic(lower: float, upper: float) -> Term:
    """The odd quintic with the smallest max |1 - p| on [lower, upper], by one scalar equation.

    With p(l) = p(r) and p'(r) = 0,  p(x) - p(l) = c (x - r)^2 (x - l) (x^2 + (2r + l) x + beta);
    that p has no even powers gives beta, a / c, b / c and the other extremum q, and r in (l, u)
    is where p(q) = p(u).  Centring, p(l) + p(u) = 2, gives c.

    Source: derived here; Amsel et al. 2025, arXiv:2505.16932, have it by Remez exchange.
    """
    if not 0 < lower <= upper:
        raise ValueError(f"needs an interval 0 < lower <= upper; got [{lower}, {upper}]")
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
    factor = 2 / (_value(term, lower) + _value(term, upper))  # at upper as large as between
    return factor * a, factor * b, factor * c


@lru_cache(maxsize=64)
def PolarExpress(
    steps: int = 5,
    lower: float = 1e-3,
    cushion: float = CUSHION,
    safety: float = 1.0,
    schatten: int = 2,
) -> Polynomials:
    """The `steps` odd polynomials with the least max |1 - p_T(... p_1(s))| over [lower, 1].

    Greedy is optimal: p_t is the best polynomial on the interval [l_t, u_t] that the ones before
    leave, and then l_{t+1} = p_t(l_t), u_{t+1} = 2 - l_{t+1}.  It is fitted on
    [max(l_t, cushion u_t), u_t] instead and re-centred, which keeps the first steps from lifting
    the smallest values at the price of bending the middle; `safety` > 1 is put into the recursion:
    every term but the last is p_t(s / safety).

    lower  the smallest singular value, relative to the bound, that has to arrive

    Source: Amsel, Persson, Musco, Gower 2025, arXiv:2505.16932.
    """
    if steps < 1 or not 0 < lower < 1:
        raise ValueError(
            f"PolarExpress needs steps >= 1 and 0 < lower < 1; got steps={steps}, lower={lower}"
        )
    low, high, terms = lower, 1.0, []
    for step in range(steps):
        term = _centred(closed_quintic(max(low, cushion * high), high), low, high)
        term = term if step == steps - 1 else _shrunk(term, safety)
        terms.append(term)
        low = min(_value(term, low), 1.0)  # rounding may carry it past one
        high = 2 - low
    name = f"PolarExpress(steps={steps}, lower={lower:g}, safety={safety:g}, schatten={schatten})"
    return Polynomials(tuple(terms), schatten, safety, name, lower)
