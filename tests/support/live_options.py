"""A small network under a recipe, and steps that show a recipe all that it may read."""

from typing import Any

import torch
from torch import Tensor, nn

import modula
from modula.recipes import RECIPES


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def build(name: str, **options: Any) -> tuple[nn.Module, modula.SteepestDescent]:
    net = network()
    return net, RECIPES[name](net, **options)


def advance(net: nn.Module, optimizer: modula.SteepestDescent, seed: int) -> None:
    """A step on two microbatches, with passes at sampled labels."""
    torch.manual_seed(seed)
    x, y = torch.randn(8, 6), torch.randn(8, 4)
    optimizer.zero_grad()
    for context in (optimizer.sampled(), optimizer.perturbed()):
        torch.manual_seed(seed)
        with context:
            for a, b in zip(x.chunk(2), y.chunk(2), strict=True):
                ((net(a) - b).square().mean() / 2).backward()
    optimizer.step()


def train(net: nn.Module, optimizer: modula.SteepestDescent, first: int = 0) -> None:
    for seed in range(first, first + 3):
        advance(net, optimizer, seed)


def weights(net: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in net.parameters()]
