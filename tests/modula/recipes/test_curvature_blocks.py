"""O40: what Adam is for.  Two quadratics of equal eigenvalues, and only one that suits it."""

from statistics import median

import pytest
import torch
from torch import Tensor, nn

from modula import recipes

UNLIKE = [[1, 2, 3], [99, 100, 101], [4998, 4999, 5000]]  # each block has a curvature of its own
ALIKE = [[1, 99, 4998], [2, 100, 4999], [3, 101, 5000]]  # each block has all of them
GRIDS = {"sgd": (1e-5, 2e-5), "sign": (4e-3, 1e-2), "adam": (0.01, 0.1)}
OPTIONS = {"sgd": {"momentum": 0.95}, "sign": {}, "adam": {"betas": (0.95, 0.95)}}
STEPS, BATCH = 500, 3


def data(blocks: list[list[int]]) -> Tensor:
    turns = (torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0] for _ in blocks)
    roots = (torch.tensor(block, dtype=torch.float64).sqrt() for block in blocks)
    return torch.block_diag(*(q * root for q, root in zip(turns, roots, strict=True)))


def final_loss(name: str, lr: float, columns: Tensor) -> float:
    """|w X|^2 / 2 after 500 steps from w = (1, ..., 1), each seeing three of nine columns."""
    net = nn.Linear(9, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(net.weight)
    optimizer = recipes.RECIPES[name](net, lr, **OPTIONS[name])
    for k in range(STEPS):
        optimizer.param_groups[0]["lr"] = lr * min(20 * (k + 1) / STEPS, 1 - k / STEPS)
        some = columns[:, torch.randperm(9)[:BATCH]]
        net.weight.grad = net.weight.detach() @ some @ some.T * 9 / BATCH
        optimizer.step()
    return float((net.weight.detach() @ columns).square().sum() / 2)


def best(name: str, blocks: list[list[int]]) -> float:
    """The median of three seeds at the better rate of the grid."""
    losses = []
    for lr in GRIDS[name]:
        runs = []
        for seed in range(3):
            torch.manual_seed(seed)
            runs.append(final_loss(name, lr, data(blocks)))
        losses.append(median(runs))
    return min(losses)


@pytest.mark.parametrize("name", GRIDS)
def test_where_blocks_are_alike_no_optimizer_is_better(name: str) -> None:
    assert 1.0 < best(name, ALIKE) < 4.0


def test_where_blocks_are_unlike_adam_is_far_better() -> None:
    sgd, sign, adam = (best(name, UNLIKE) for name in GRIDS)
    assert 10 * adam < sign and 10 * sign < sgd
