"""scion keeps every weight in its ball."""

import torch
from torch import nn

import modula


def test_scion_never_leaves_its_balls() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Linear(16, 4, bias=False))
    optimizer = modula.recipes.scion(net, lr=0.1, radius=3.0)
    for _ in range(100):
        for weight in net.parameters():
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    for weight in net.parameters():
        assert modula.norms.RMSToRMS()(weight.detach()) <= 3.0 * 1.15  # of the polar factor
    modula.recipes.scion(net, lr=1.0)
    modula.recipes.scion(net, lr=1.5, constrained=False)
