"""Two optimizers on the same small network and the same stream of batches."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Make = Callable[[nn.Module], torch.optim.Optimizer]


def trained(make: Make, steps: int, *, bias: bool, width: int = 12) -> list[Tensor]:
    """The weights of a small network after `steps` steps on a fixed stream of batches."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, width, bias=bias), nn.Tanh(), nn.Linear(width, 3, bias=bias)
    ).double()
    optimizer = make(net)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(16, 6, generator=generator, dtype=torch.float64)
        loss = (net(x) - x[:, :3].sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [weight.detach() for weight in net.parameters()]


def assert_same_run(
    ours: Make,
    theirs: Make,
    *,
    steps: int = 1000,
    bias: bool = True,
    width: int = 12,
    **tolerance: float,
) -> None:
    """Both end at the same weights."""
    runs = [trained(make, steps, bias=bias, width=width) for make in (ours, theirs)]
    for mine, other in zip(*runs, strict=True):
        torch.testing.assert_close(mine, other, **tolerance)
