"""A model that is moved to another precision after construction takes its optimizer with it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gradients import fill_gradients
from snapshots import assert_unchanged, snapshot
from torch import nn

import modula
from modula import SteepestDescent
from modula.recipes import RECIPES


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def trained(recipe: str, **options: Any) -> tuple[nn.Sequential, SteepestDescent]:
    net = network()
    optimizer = RECIPES[recipe](net, **options)
    for seed in range(2):
        fill_gradients(net, seed)
        optimizer.step()
    return net, optimizer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("recipe", ["adamw", "muon", "normuon", "manifold_muon", "lion", "sgd"])
def test_state_moves_along_and_keeps_its_values(recipe: str, dtype: torch.dtype) -> None:
    net, optimizer = trained(recipe)
    before = copy.deepcopy([*optimizer.state_dict()["state"].values()])
    net.to(dtype)
    state = [*optimizer.state_dict()["state"].values()]
    working = torch.float64 if dtype == torch.float64 else torch.float32
    for own, then in zip(state, before, strict=True):
        for name, value in own.items():
            assert value.dtype == (working if value.ndim else torch.float32)
            assert torch.equal(value, then[name].to(value.dtype))
    # As one that was built for the moved model, and loads that state.
    twin_net = copy.deepcopy(net)
    twin = RECIPES[recipe](twin_net)
    twin_net.load_state_dict(net.state_dict())  # which a manifold may have projected
    twin.load_state_dict(optimizer.state_dict())
    for seed in (7, 8):
        for each, owner in ((optimizer, net), (twin, twin_net)):
            fill_gradients(owner, seed)
            each.step()
    assert_unchanged(optimizer, snapshot(twin))
    assert {weight.dtype for weight in net.parameters()} == {dtype}


def test_a_part_of_the_model_may_move_and_come_back() -> None:
    net, optimizer = trained("adamw", state_dtype=torch.bfloat16)
    twin_net, twin = copy.deepcopy((net, optimizer))
    for dtype in (torch.float64, torch.float32):
        net[0].to(dtype)
        dtypes = {x.dtype for x in optimizer.state_dict()["state"][0].values() if x.ndim}
        assert dtypes == {torch.bfloat16}
    for each, owner in ((optimizer, net), (twin, twin_net)):
        fill_gradients(owner, 7)
        each.step()
    assert_unchanged(optimizer, snapshot(twin))


def test_new_memory_of_the_same_kind_is_no_move() -> None:
    net, optimizer = trained("muon")
    held = optimizer.state[net[0].weight]["momentum"]
    for weight in net.parameters():
        weight.data = weight.data.clone()
    fill_gradients(net, 7)
    before = net[0].weight.detach().clone()
    optimizer.step()
    assert optimizer.state[net[0].weight]["momentum"] is held
    assert not torch.equal(net[0].weight, before)


def test_layers_are_read_in_the_new_precision() -> None:
    net = network()
    optimizer = modula.recipes.newton_muon(net, every=1)
    net.double()
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(4, 6).double()).square().mean().backward()
        optimizer.step()
    state = optimizer.state[net[0].weight]
    assert state["factor_inputs"].dtype == torch.float64
    assert float(state["seen_inputs"]) == 3


def cut(net: nn.Sequential) -> None:
    net[0].weight.data = net[0].weight.data[:5]
    net[0].weight.grad = None


def transpose(net: nn.Sequential) -> None:
    net[0].weight.data = net[0].weight.data.T
    net[0].weight.grad = None


def to_integers(net: nn.Sequential) -> None:
    net[0].weight.grad = None
    net[0].weight.requires_grad_(False)
    net[0].weight.data = net[0].weight.data.long()


def to_complex(net: nn.Sequential) -> None:
    net.zero_grad()
    net[0].weight.data = net[0].weight.data.to(torch.complex64)


REFUSED: dict[str, tuple[Callable[[nn.Sequential], None], str]] = {
    "complex": (
        to_complex,
        r"^0.weight is complex64 now, where norms measure real numbers: .* model.to\(torch.float32",
    ),
    "integers": (to_integers, r"^0.weight is int64 now, where norms measure real numbers"),
    "cut": (cut, r"^0.weight has shape \(5, 6\) now, .* for \(8, 6\): .*replace\('0.weight', wei"),
    "transposed": (transpose, r"^0.weight has shape \(6, 8\) now"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_batches_cannot_be_built_for_is_refused(kind: str) -> None:
    net, optimizer = trained("adamw")
    change, words = REFUSED[kind]
    change(net)
    before = snapshot(optimizer)
    for act in (optimizer.step, optimizer.state_dict):
        with pytest.raises(ValueError, match=words) as error:
            act()
        assert "\n" not in str(error.value)
    assert_unchanged(optimizer, before)
