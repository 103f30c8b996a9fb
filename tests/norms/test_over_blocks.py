"""Sums and roots over blocks against plain loops, the group lasso, and what they are known as."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.norms import (
    L1,
    L2,
    Frobenius,
    Norm,
    Nuclear,
    RMSToRMS,
    RootOverBlocks,
    Spectral,
    SumOverBlocks,
)

HEADS = RMSToRMS().on("(h d) i -> h d i", h=3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_formulas() -> None:
    g = normal(6, 5)
    heads = [g[2 * h : 2 * h + 2] for h in range(3)]
    sizes = [(5 / 2) ** 0.5 * torch.linalg.svdvals(head)[0] for head in heads]
    duals = [(2 / 5) ** 0.5 * torch.linalg.svdvals(head).sum() for head in heads]
    maps = [(2 / 5) ** 0.5 * u @ vh for u, _, vh in map(_svd, heads)]
    total, root = SumOverBlocks(HEADS), RootOverBlocks(HEADS)
    assert_close(total(g), torch.stack(sizes).sum())
    assert_close(root(g), torch.stack(sizes).norm())
    assert_close(total.dual(g), torch.stack(duals).max())
    length = torch.stack(duals).norm()
    assert_close(root.dual(g), length)
    best = int(torch.stack(duals).argmax())
    greedy = torch.cat([maps[h] if h == best else 0 * maps[h] for h in range(3)])
    assert_close(total.duality_map(g), greedy)
    shared = torch.cat([dual / length * each for dual, each in zip(duals, maps, strict=True)])
    assert_close(root.duality_map(g), shared)


def _svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    return u, s, vh


def test_the_proximal_map_over_rows_is_the_group_lassos() -> None:
    x, step = normal(7, 3), 1.1
    y = SumOverBlocks(L2().on("o i -> o i")).prox(x, step)
    for row, shrunk in zip(x, y, strict=True):
        assert_close(shrunk, (1 - step / row.norm()).clamp(min=0) * row)


@pytest.mark.parametrize(
    ("norm", "same"),
    [
        (SumOverBlocks(L1().on("o i -> o i")), L1(ndim=2)),
        (RootOverBlocks(L2().on("o i -> i o")), Frobenius()),
        (SumOverBlocks(Nuclear().on("(h d) i -> h d i", h=1)), Nuclear()),
        (RootOverBlocks(Spectral().on("(h d) i -> h d i", h=1)), Spectral()),
    ],
    ids=str,
)
def test_known_by_two_names(norm: Norm, same: Norm) -> None:
    for seed in range(3):
        x = normal(4, 3, seed=seed)
        for scale in (1e-30, 1.0, 1e30):
            assert_close(norm(scale * x), same(scale * x))
            assert_close(norm.dual(scale * x), same.dual(scale * x))
            assert_close(norm.duality_map(scale * x), same.duality_map(scale * x))
        if isinstance(norm, SumOverBlocks):
            assert_close(norm.project(x, 1.3), same.project(x, 1.3))


def test_they_are_values_with_duals() -> None:
    total, root = SumOverBlocks(HEADS), RootOverBlocks(HEADS)
    assert str(total) == f"SumOverBlocks({HEADS})" and total == SumOverBlocks(HEADS)
    blocks = Spectral().on("(h d) i -> h d i", h=2)
    assert SumOverBlocks(blocks).dual_norm() == Nuclear().on("(h d) i -> h d i", h=2)
    g = normal(4, 3)
    assert_close(RootOverBlocks(blocks).dual_norm()(g), RootOverBlocks(blocks).dual(g))
    assert total.over(2) == total and hash(root) == hash(RootOverBlocks(HEADS))


def test_what_is_no_norm_on_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"SumOverBlocks needs a norm on blocks, got RMSToRMS\(\)"):
        SumOverBlocks(RMSToRMS())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not cut a weight"):
        RootOverBlocks(HEADS)(normal(5, 5))
