"""unit_condition_map: certified on every shape, exact and silent where manifold Muon is."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.duality import certify
from modula.kernels.tangent.stiefel import stiefel_map
from modula.kernels.tangent.stiefel_bound import stiefel_dual_bound
from modula.kernels.tangent.unit_condition import unit_condition_map
from modula.manifolds import UnitConditionNumber
from modula.norms import Spectral

MANIFOLD = UnitConditionNumber()


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def point(*shape: int) -> Tensor:
    return 1.7 * MANIFOLD.project(gaussian(*shape))


def value(g: Tensor, a: Tensor) -> Tensor:
    return (g * a).sum((-2, -1))


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 5), (5, 1), (30, 2), (7, 4), (24, 8)])
def test_feasible_and_certified(shape: tuple[int, int]) -> None:
    w, g = point(*shape), gaussian(*shape, seed=1)
    found = certify(Spectral(), MANIFOLD, w, g, unit_condition_map(w, g))
    assert found.norm == pytest.approx(1.0, abs=1e-3)
    assert found.tangency < 1e-9
    assert -1e-9 <= found.gap <= (1e-4 if shape[0] == shape[1] or shape[1] <= 2 else 0.05)


@pytest.mark.parametrize("n", [2, 3, 6, 7])
def test_square_weights_by_hand(n: int) -> None:
    """The normal matrix c I + Omega has eigenvalues c +- i omega: all of length one if need be."""
    w, g = point(n, n), gaussian(n, n, seed=1)
    inner = w.mT @ g / torch.linalg.matrix_norm(w, ord=2)
    turn = torch.linalg.matrix_norm((inner - inner.mT) / 2, ord="nuc")
    best = torch.hypot(turn, inner.trace())
    assert_close(value(g, unit_condition_map(w, g)), best, rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(24, 8), (7, 4)], ids=str)
def test_the_share_missed_is_no_larger_than_manifold_muons(shape: tuple[int, int]) -> None:
    w, g = point(*shape), gaussian(*shape, seed=1)
    q = w / torch.linalg.matrix_norm(w, ord=2)
    turn, bound = value(g, stiefel_map(w, g)), stiefel_dual_bound(q, g, 40)
    growth = value(g, q)
    assert_close(value(g, unit_condition_map(w, g)), torch.hypot(turn, growth))
    share = value(g, unit_condition_map(w, g)) / torch.hypot(bound, growth)
    assert share >= turn / bound


@pytest.mark.parametrize("shape", [(5, 5), (7, 4), (24, 8)], ids=str)
def test_growth_alone_and_nothing_at_all(shape: tuple[int, int]) -> None:
    for dtype in (torch.float32, torch.float64):
        w = MANIFOLD.project(gaussian(*shape).to(dtype))
        q = w / torch.linalg.matrix_norm(w, ord=2)
        assert_close(unit_condition_map(w, -3 * w), -q, rtol=0, atol=1e-5)
        s = gaussian(shape[1], shape[1], seed=1).to(dtype)
        s = s + s.mT - 2 * torch.eye(shape[1], dtype=dtype) * s.trace() / shape[1]
        for normal in (w @ s, 0 * w):
            assert torch.equal(unit_condition_map(w, normal), 0 * w)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(12, 5), (6, 6), (2, 3, 7, 5)], ids=str)
def test_scales_batches_and_dtypes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    w, g = point(*shape).to(dtype), gaussian(*shape, seed=1).to(dtype)
    before = w.clone(), g.clone()
    d = unit_condition_map(w, g)
    assert d.dtype == dtype
    assert torch.equal(w, before[0]) and torch.equal(g, before[1])
    near = 0.02 if dtype == torch.bfloat16 else 2e-4
    for scale in (1e-30, 1e30):
        assert_close(unit_condition_map(w, scale * g), d, atol=near, rtol=0)
        assert_close(unit_condition_map(scale * w, g), d, atol=near, rtol=0)
    if len(shape) == 4:
        one = unit_condition_map(w[1, 2], g[1, 2])
        assert_close(d[1, 2], one, atol=near / 2, rtol=0)
    assert unit_condition_map(w[None][:0], g[None][:0]).shape == (0, *shape)


def test_it_costs_little_more_than_manifold_muon() -> None:
    for shape in ((64, 64), (256, 64)):
        share = unit_condition_map.cost(shape).flops / stiefel_map.cost(shape).flops
        assert 1 < share < 1.02
