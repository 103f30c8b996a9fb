"""agd against its paper."""

import pytest
import torch
from torch import Tensor, nn

import modula


def agd_network(second: Tensor | None) -> tuple[nn.Module, list[Tensor]]:
    g = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    if second is not None:
        net.append(nn.Linear(2, 3, bias=False))
    gradients = [g] if second is None else [g, second]
    for weight, gradient in zip(net.parameters(), gradients, strict=True):
        weight.grad = gradient
    return net, gradients


@pytest.mark.parametrize(
    ("second", "eta"),
    [(None, 1.164945), (torch.tensor([[3.0, 4.0], [0.0, 5.0], [1.0, 0.0]]), 1.210855)],
    ids=["one layer", "two layers"],
)
def test_agd_takes_the_published_step(second: Tensor | None, eta: float) -> None:
    net, gradients = agd_network(second)
    before = [weight.detach().clone() for weight in net.parameters()]
    optimizer = modula.recipes.agd(net)
    optimizer.step()
    assert optimizer.last_lr == pytest.approx(eta, abs=1e-6)
    for weight, start, g in zip(net.parameters(), before, gradients, strict=True):
        scale = (g.shape[0] / g.shape[1]) ** 0.5 / len(gradients)
        torch.testing.assert_close(start - weight, eta * scale * g / g.norm())
