"""A saved state goes on bit by bit in an optimizer of the same geometry, and in no other."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from gradients import fill_gradients
from snapshots import assert_unchanged, snapshot
from torch import nn

import modula
from modula.duality import Exact
from modula.recipes import RECIPES


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("name", [*RECIPES])
def test_a_run_resumed_from_a_file_is_bit_identical(name: str) -> None:
    net = network()
    optimizer = RECIPES[name](net)
    for seed in range(3):
        fill_gradients(net, seed)
        optimizer.step()
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = network()
    other.load_state_dict(saved["net"])
    resumed = RECIPES[name](other)
    resumed.load_state_dict(saved["optimizer"])
    for seed in range(3, 6):
        for each, owner in ((optimizer, net), (resumed, other)):
            fill_gradients(owner, seed)
            each.step()
    assert_unchanged(resumed, snapshot(optimizer))


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_by_themselves(copy_of: Any) -> None:
    net = network()
    optimizer = modula.recipes.muon(net)
    fill_gradients(net, 0)
    optimizer.step()
    twin_net, twin = copy_of((net, optimizer))
    for owner in (net, twin_net):
        fill_gradients(owner, 1)
    twin.step()
    before = snapshot(optimizer)
    optimizer.step()
    assert_unchanged(twin, snapshot(optimizer))
    assert not torch.equal(before[0], snapshot(twin)[0])


def test_geometry_is_part_of_a_checkpoint() -> None:
    saved = modula.recipes.muon(network()).state_dict()
    other = modula.recipes.muon(network(), scale="original")
    before = snapshot(other)
    with pytest.raises(ValueError, match=r"0\.weight was saved under RMSToRMS\(\)"):
        other.load_state_dict(saved)
    assert_unchanged(other, before)
    with pytest.raises(ValueError, match=r"groups of \[2, 2\] weights, this optimizer of \[4\]"):
        modula.recipes.adamw(network()).load_state_dict(saved)


@pytest.mark.parametrize(
    ("name", "geometry"),
    [
        ("muon", "RMSToRMS() Euclidean() None Unit() Average(beta=0.95, nesterov=True) budget 1"),
        ("sgd", "Frobenius() Euclidean() None Sharp() NoMomentum() budget 1"),
        (
            "shampoo",
            "Frobenius() Euclidean() Kronecker(fit=Sum(), memory=Memory(beta=0.99), damping=1e-06) "
            "Sharp() Unbiased(beta=0.9) Graft(setting=Setting(norm=L2(), manifold=Euclidean(), "
            "metric=Diagonal(), potential=Sharp(), momentum=Unbiased(beta=0.9))) budget 1",
        ),
    ],
)
def test_accuracy_is_no_part_of_a_checkpoint(name: str, geometry: str) -> None:
    saved = RECIPES[name](network()).state_dict()
    assert saved["param_groups"][0]["geometry"][0] == geometry
    exact = RECIPES[name](network(), accuracy=Exact())
    exact.load_state_dict(saved)
    assert exact.state_dict()["param_groups"] == saved["param_groups"]


def test_loading_foreign_state_is_refused() -> None:
    net = network()
    foreign = torch.optim.SGD(net.parameters(), 0.1).state_dict()
    with pytest.raises(ValueError, match="was saved under no geometry"):
        modula.recipes.sgd(net).load_state_dict(foreign)
