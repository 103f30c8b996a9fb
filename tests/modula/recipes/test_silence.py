"""A token that is seen no more moves no more, whatever recipe trains its embedding."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modula.recipes import RECIPES


@pytest.mark.parametrize(
    ("name", "shrinks"),
    [
        *(("modular", 0), ("clipped", 0), ("sign", 0), ("lion", 0), ("normuon", 0)),
        *(("automatic", 1), ("scion", 1)),
    ],
)
def test_a_token_of_the_first_batch_alone(name: str, shrinks: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    nn.init.normal_(net[0].weight)
    optimizer = RECIPES[name](net)
    seen = torch.tensor([0, 1, 2, 3])
    for step in range(40):
        optimizer.zero_grad()
        F.cross_entropy(net(seen), (seen + 1) % 5).backward()
        optimizer.step()
        row = net[0].weight.detach()[0]
        if step == 0:
            first, seen = row.clone(), torch.tensor([1, 2, 3])
    if name == "normuon":  # AdamW, whose step goes to zero with its average
        assert (row - first).norm() < 0.1
    elif shrinks:  # the ball's decay goes on: to zero, along itself
        assert row.norm() < first.norm()
        torch.testing.assert_close(row / row.norm(), first / first.norm())
    else:
        assert torch.equal(row, first)
