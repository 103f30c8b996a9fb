"""A step moves weights that have a gradient, allocates no state, and is undone where it fails."""

from copy import deepcopy

import pytest
import torch
from gradients import fill_gradients
from torch import Tensor, nn

import modula
from modula.manifolds import (
    Implicit,
)
from modula.norms import Frobenius


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def values(net: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in net.parameters()]


def test_state_exists_before_the_first_step() -> None:
    optimizer = modula.recipes.adamw(network())
    keys = [{*state} for state in optimizer.state_dict()["state"].values()]
    assert keys == [{"momentum", "step", "square"}] * 4


def test_nothing_grows_from_step_to_step() -> None:
    net = network()
    optimizer = modula.recipes.muon(net)
    pointers = [s.data_ptr() for state in optimizer.state.values() for s in state.values()]
    for seed in range(5):
        fill_gradients(net, seed)
        optimizer.step()
    assert pointers == [s.data_ptr() for state in optimizer.state.values() for s in state.values()]


def test_weights_without_a_gradient_are_left_alone() -> None:
    net = network()
    optimizer = modula.recipes.adamw(net)
    fill_gradients(net, 0)
    net[0].weight.grad = None
    before = net[0].weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(net[0].weight.detach(), before, rtol=0, atol=0)
    assert optimizer.state[net[0].weight]["step"] == 0
    assert optimizer.state[net[2].weight]["step"] == 1
    optimizer.zero_grad()
    optimizer.step()  # no gradient at all is no step


def hyperbola(w: Tensor) -> Tensor:
    return w[0, 0] * w[0, 1] - 1


def test_a_step_to_nowhere_is_undone() -> None:
    net = network()
    with torch.no_grad():
        net[2].weight[0, :2] = 1.0
    geometry = modula.Geometry(Frobenius(), Implicit(hyperbola))
    optimizer = modula.SteepestDescent(modula.declare(net, {"2.weight": geometry}), lr=0.01)
    x = torch.randn(16, 6)

    def step() -> None:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

    step()
    before, state = values(net), deepcopy(optimizer.state_dict()["state"])
    optimizer.param_groups[0]["lr"] = float("1e30")
    with pytest.raises(ValueError, match="Implicit"):
        step()
    assert all(map(torch.equal, values(net), before))
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(after[i][name], x) for i in state for name, x in state[i].items())
    optimizer.param_groups[0]["lr"] = 0.01
    step()
    assert not any(map(torch.equal, values(net), before))
    assert float(Implicit(hyperbola).residual(net[2].weight.detach())) < 1e-5
