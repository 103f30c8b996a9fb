"""Projections on balls and proximal maps: hand-computed, by brute force, and what is refused."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.norms import (
    L1,
    L2,
    RMS,
    Columns,
    FromDual,
    KyFan,
    KyFanDual,
    Max,
    NoClosedForm,
    Norm,
    Nuclear,
    RMSToRMS,
    Rows,
    Schatten,
    Spectral,
)
from modula.norms.numerics import decreasing_root

G = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)  # singular values 3 and 1, sqrt(5)


@pytest.mark.parametrize(
    ("norm", "x", "radius", "expected"),
    [
        (L1(), [3.0, -1.0, 0.5], 2.0, [2.0, 0.0, 0.0]),
        (L1(), [3.0, -2.0, 0.5], 2.0, [1.5, -0.5, 0.0]),
        (L1(), [0.0, 0.0], 1.0, [0.0, 0.0]),
        (L2(), [3.0, -4.0], 1.0, [0.6, -0.8]),
        (RMS(), [3.0, -3.0], 1.0, [1.0, -1.0]),
        (Max(), [3.0, -0.5], 1.0, [1.0, -0.5]),
        (Max(), [3.0, -0.5], 0.0, [0.0, 0.0]),
        (Spectral(), [[3.0, 0.0], [0.0, 0.5]], 1.0, [[1.0, 0.0], [0.0, 0.5]]),
        (RMSToRMS(), [[3.0], [4.0]], 1.0, [[2**0.5 * 0.6], [2**0.5 * 0.8]]),
        (Nuclear(), [[3.0, 0.0], [0.0, -2.0]], 2.0, [[1.5, 0.0], [0.0, -0.5]]),
        (Rows(L2()), [[3.0, 4.0], [0.0, 0.5]], 1.0, [[0.6, 0.8], [0.0, 0.5]]),
        (Columns(L1()), [[3.0, 0.2], [2.0, 0.2]], 2.0, [[1.5, 0.2], [0.5, 0.2]]),
        (KyFanDual(2), [[3.0, 0.0], [0.0, 0.5]], 1.0, [[1.0, 0.0], [0.0, 0.5]]),
        (KyFan(1), [[3.0, 0.0], [0.0, 0.5]], 1.0, [[1.0, 0.0], [0.0, 0.5]]),
        (KyFan(2), [[3.0, 0.0], [0.0, -2.0]], 2.0, [[1.5, 0.0], [0.0, -0.5]]),
        (2 * Max(), [3.0, -0.2], 1.0, [0.5, -0.2]),
    ],
    ids=str,
)
def test_hand_computed_projections(
    norm: Norm, x: list[float], radius: float, expected: list[float]
) -> None:
    found = norm.project(torch.tensor(x, dtype=torch.float64), radius)
    assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("norm", "x", "step", "expected"),
    [
        (L1(), [3.0, -1.0, 0.5], 0.75, [2.25, -0.25, 0.0]),
        (L2(), [3.0, -4.0], 2.5, [1.5, -2.0]),
        (L2(), [3.0, -4.0], 6.0, [0.0, 0.0]),
        (Max(), [3.0, -2.0, 0.5], 3.0, [1.0, -1.0, 0.5]),
        (Nuclear(), [[3.0, 0.0], [0.0, -2.0]], 2.5, [[0.5, 0.0], [0.0, 0.0]]),
        (Spectral(), [[3.0, 0.0], [0.0, -2.0]], 2.0, [[1.5, 0.0], [0.0, -1.5]]),
        (Rows(L2()), [[3.0, 4.0], [0.0, 3.0]], 3.0, [[1.5, 2.0], [0.0, 2.5]]),
        (2 * L1(), [3.0, -1.0], 0.5, [2.0, 0.0]),
    ],
    ids=str,
)
def test_hand_computed_proximal_maps(
    norm: Norm, x: list[float], step: float, expected: list[float]
) -> None:
    found = norm.prox(torch.tensor(x, dtype=torch.float64), step)
    assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def grid(axis: Tensor) -> Tensor:
    """All the 2 x 2 matrices diag(a, b) with a, b of the axis."""
    return torch.stack([torch.diag(torch.stack(pair)) for pair in product(axis, axis)])


@pytest.mark.parametrize(
    "norm",
    [Schatten(1.5), Schatten(3), Schatten(7.0), KyFan(1), KyFan(2), KyFanDual(1), KyFanDual(2)],
    ids=str,
)
def test_no_point_of_a_grid_is_nearer(norm: Norm) -> None:
    x = torch.diag(torch.tensor([1.5, 0.9], dtype=torch.float64))
    points = grid(torch.linspace(0, 1.6, 81, dtype=torch.float64))
    gap = (points - x).square().sum((-1, -2))
    p, y = norm.project(x), norm.prox(x, 0.6)
    nearest = gap[norm(points) <= 1].min()
    assert -1e-12 <= nearest - (p - x).square().sum() < 0.1
    best = (0.6 * norm(points) + gap / 2).min()
    assert -1e-9 <= best - (0.6 * norm(y) + (y - x).square().sum() / 2) < 0.01


@pytest.mark.parametrize(
    ("norm", "same"),
    [
        (Schatten(1), Nuclear()),
        (Schatten(2), L2(ndim=2)),
        (Schatten(float("inf")), Spectral()),
        (Schatten(1.0001), Nuclear()),
        (Schatten(1e4), Spectral()),
        (KyFan(1), Spectral()),
        (KyFan(2), Nuclear()),
        (KyFanDual(1), Nuclear()),
        (KyFanDual(2), Spectral()),
    ],
    ids=str,
)
def test_known_by_two_names(norm: Norm, same: Norm) -> None:
    tolerance = 0.02 if norm in (Schatten(1.0001), Schatten(1e4)) else 1e-9
    for radius in (0.1, 3.0, 8.0, 20.0):
        found, expected = norm.project(G, radius), same.project(G, radius)
        assert_close(found, expected, rtol=0, atol=tolerance)
        assert_close(norm.prox(G, radius), same.prox(G, radius), rtol=0, atol=tolerance)


@pytest.mark.parametrize("values", ["spread", "tied", "equal but for rounding"])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_projection_on_a_ky_fan_ball_is_optimal(k: int, values: str) -> None:
    """<x - p, p> = radius ||x - p||_* makes p the nearest point, and no other is as near."""
    generator = torch.Generator().manual_seed(k)
    s = torch.rand(300, 5, dtype=torch.float64, generator=generator)
    s = {"spread": s**3, "tied": (3 * s).round(), "equal but for rounding": 1 + 1e-12 * s}[values]
    u, v = torch.linalg.qr(torch.randn(2, 300, 6, 5, dtype=torch.float64, generator=generator))[0]
    x, norm = (u * s[:, None, :]) @ v.mT, KyFan(k)
    radius = 1.2 * norm(x) * torch.rand(300, dtype=torch.float64, generator=generator)
    radius[:9] = 0
    p = norm.project(x, radius)
    assert (norm(p) - radius).max() < 1e-12
    assert_close(((x - p) * p).sum((-2, -1)), radius * norm.dual(x - p), rtol=0, atol=1e-11)
    assert torch.equal(p[norm(x) < radius], x[norm(x) < radius])
    single = norm.project(x.float(), radius.float()).double()
    assert_close(single, p, rtol=0, atol=1e-5)


def test_wide_and_tall_are_transposes() -> None:
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for norm in (Spectral(), Nuclear(), Schatten(3), KyFan(2), KyFanDual(2)):
        assert_close(norm.project(x.mT), norm.project(x).mT)
        assert_close(norm.prox(x.mT, 0.7), norm.prox(x, 0.7).mT)


def test_a_norm_without_a_formula_names_those_that_have_one() -> None:
    norm = FromDual(torch.linalg.vector_norm)
    for move in (norm.project, norm.prox):
        with pytest.raises(NoClosedForm, match="has no projection .* Spectral, Nuclear, Schatten"):
            move(G, 1.0)
    with pytest.raises(NoClosedForm, match="have a dual_norm"):
        Rows(L2()).dual_norm()


def test_nothing_is_written_to() -> None:
    x = G.clone()
    for norm in (L1(), Max(), Spectral(), Nuclear(), Schatten(3), KyFan(2), Rows(L2())):
        norm.project(x, 1.0).mul_(2)
        norm.project(x, 100.0).mul_(2)
        norm.prox(x, 0.0).mul_(2)
    assert torch.equal(x, G)


def test_a_decreasing_root_is_found_within_the_steps_of_bisection_and_usually_in_few() -> None:
    wanted, count = torch.linspace(0.01, 0.99, 99, dtype=torch.float64), 0
    high = torch.full_like(wanted, 1.0)

    def counted(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def g(t: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return f(t)

        return g

    for f, most in (
        (lambda t: wanted - t, 15),
        (lambda t: 1 / (1 + t) - 1 / (1 + wanted), 25),
        (lambda t: (-5 * t).exp() - (-5 * wanted).exp(), 63),
        (lambda t: torch.where(t < wanted, 3.0, 0.01) * (wanted - t), 63),
        (lambda t: torch.where(t < wanted, 1.0, -1.0).double(), 63),
    ):
        count = 0
        assert_close(decreasing_root(counted(f), high), wanted, rtol=0, atol=1e-15)
        assert count <= most
    assert_close(decreasing_root(lambda t: -1 - t, high), 0 * high)
    met: list[float] = []
    decreasing_root(lambda t: (met.append(float(t.min())), 1e-17 - t)[1], high)
    assert min(met) == 0  # nowhere beyond the interval
