"""Weights of param_groups, of the model and of the optimizer are the same, or it is told."""

import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gradients import fill_gradients
from snapshots import assert_unchanged, snapshot
from torch import nn
from torch.nn.utils import parametrize

import modula
from modula import SteepestDescent
from modula.duality import Declaration, Setting
from modula.norms import RMS, RMSToRMS
from modula.optimizer.membership import ModelWatch


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3))


def trained(net: nn.Module | None = None) -> tuple[Any, SteepestDescent]:
    net = network() if net is None else net
    optimizer = modula.recipes.muon(net)
    fill_gradients(net, 0)
    optimizer.step()
    return net, optimizer


def exchange(net: Any, o: SteepestDescent) -> None:
    o.param_groups[0]["params"][1] = nn.Parameter(torch.ones(8, 8))


def exchange_for_another_shape(net: Any, o: SteepestDescent) -> None:
    o.param_groups[0]["params"] = [nn.Parameter(torch.ones(9, 6)), *o.param_groups[0]["params"][1:]]


def replace_all(net: Any, o: SteepestDescent) -> None:
    o.param_groups = [
        {**g, "params": [nn.Parameter(w) for w in g["params"]]} for g in o.param_groups
    ]


BY_HAND: dict[str, tuple[Callable[[Any, SteepestDescent], Any], str]] = {
    "exchanged": (
        exchange,
        r'^param_groups\[0\]\["params"\] has another tensor, of shape \(8, 8\), in place of '
        r"2.weight: .* after optimizer.replace\('2.weight', new\)$",
    ),
    "another shape": (
        exchange_for_another_shape,
        r"of shape \(9, 6\), in place of 0.weight: .*\('0.weight', new, rows=...\)$",
    ),
    "all replaced": (replace_all, r"of shape \(8, 6\), in place of 0.weight"),
    "added": (
        lambda net, o: o.param_groups[0]["params"].append(nn.Parameter(torch.ones(2))),
        r'has one more weight, of shape \(2,\): add it with optimizer.add_param_group\(\{"params"',
    ),
    "added twice": (
        lambda net, o: o.param_groups[0]["params"].append(net[0].weight),
        r"has its weights in another order or twice, from 0.weight on",
    ),
    "removed": (
        lambda net, o: o.param_groups[0]["params"].pop(),
        r"lacks 3.weight: put it back, and leave it out of steps with weight.requires_grad_\(False",
    ),
    "sorted": (
        lambda net, o: o.param_groups[0]["params"].reverse(),
        r"has its weights in another order or twice, from 3.weight on",
    ),
    "group appended": (
        lambda net, o: o.param_groups.append({"params": [nn.Parameter(torch.ones(2))], "lr": 0.1}),
        r"^param_groups has 3 groups, and this optimizer 2: a new one is added with optimizer",
    ),
    "group removed": (lambda net, o: o.param_groups.pop(), r"has 1 groups, and this optimizer 2"),
    "groups exchanged": (lambda net, o: o.param_groups.reverse(), r"in place of 0.weight"),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_weights_exchanged_by_hand_are_told_before_anything_changes(kind: str) -> None:
    net, optimizer = trained()
    weights = [weight.detach().clone() for weight in net.parameters()]
    change, words = BY_HAND[kind]
    change(net, optimizer)
    fill_gradients(net, 1)
    for act in (optimizer.step, optimizer.state_dict):
        with pytest.raises(ValueError, match=words) as error:
            act()
        assert "\n" not in str(error.value)
    assert all(map(torch.equal, net.parameters(), weights))


def test_groups_with_other_options_act() -> None:
    net, optimizer = trained()
    optimizer.param_groups = [{**group, "lr": 0.0} for group in optimizer.param_groups]
    before = [weight.detach().clone() for weight in net.parameters()]
    fill_gradients(net, 1)
    optimizer.step()
    assert all(map(torch.equal, net.parameters(), before))
    assert len(optimizer.state_dict()["state"]) == 6


def test_two_weights_of_one_name_are_refused() -> None:
    net, optimizer = trained()
    before = snapshot(optimizer)
    new = ("2.weight", nn.Parameter(torch.ones(2, 2)))
    group = {"params": [new], "declarations": [Declaration(Setting(RMSToRMS()))], "lr": 0.1}
    with pytest.raises(ValueError, match="2.weight is the name of two weights: give each its own"):
        optimizer.add_param_group(group)
    assert_unchanged(optimizer, before)
    optimizer.step()


def unfreeze(net: Any) -> None:
    net[2].weight.requires_grad_(True)


def assign(net: Any) -> None:
    net.load_state_dict({k: v.clone() for k, v in net.state_dict().items()}, assign=True)


def reassign(net: Any) -> None:
    net[0].weight = nn.Parameter(torch.ones(8, 6))


def adapt(net: Any) -> None:
    net[3] = nn.Sequential(net[3], nn.Linear(3, 3, bias=False))


def drop(net: Any) -> None:
    net[3] = nn.Identity()


def convert(net: Any) -> None:
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        net[0].double().float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


KEYS = "trained in the model, but no weight of the optimizer: ", "no longer in the model: "
CHANGED: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "unfrozen": (unfreeze, "2.weight", ""),
    "assigned": (
        assign,
        "0.weight, 0.bias, 2.bias, 3.weight, 3.bias",
        "0.weight, 0.bias, 2.bias, 3.weight, 3.bias",
    ),
    "reassigned": (reassign, "0.weight", "0.weight"),
    "adapted": (adapt, "3.1.weight", ""),
    "dropped": (drop, "", "3.weight, 3.bias"),
    "converted": (convert, "0.weight, 0.bias", "0.weight, 0.bias"),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_a_model_that_trains_other_weights_is_told_once(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    net = network()
    net[2].weight.requires_grad_(False)
    optimizer = modula.recipes.muon(net)
    change, new, gone = CHANGED[kind]
    change(net)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            net(torch.randn(2, 6)).square().mean().backward()
            optimizer.step()
    (line,) = [record.message for record in caplog.records]
    parts = line.split("; ")
    told = {key: {*x.removeprefix(key).split(", ")} for x in parts for key in KEYS if key in x}
    assert told == {k: {*x.split(", ")} for k, x in zip(KEYS, (new, gone), strict=True) if x}
    assert "optimizer.replace(old, new), a new one with optimizer.add_param_group({" in parts[-1]


def test_what_was_told_first_is_cured_and_what_comes_later_told_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    net = network()
    net[2].weight.requires_grad_(False)
    net[3].bias.requires_grad_(False)
    optimizer = modula.recipes.muon(net)
    with caplog.at_level(logging.WARNING):
        for module in (net[2].weight, net[3].bias):
            module.requires_grad_(True)
            fill_gradients(net, 1)
            optimizer.step()
            optimizer.step()
    assert ["2.weight" in x.message for x in caplog.records] == [True, False]
    assert ["3.bias" in x.message for x in caplog.records] == [False, True]
    declarations = [Declaration(Setting(RMSToRMS())), Declaration(Setting(RMS()))]
    params = [("2.weight", net[2].weight), ("3.bias", net[3].bias)]
    optimizer.add_param_group({"params": params, "declarations": declarations, "lr": 0.1})
    before = net[2].weight.detach().clone()
    caplog.clear()
    optimizer.step()
    assert not caplog.records
    assert not torch.equal(net[2].weight, before)


@pytest.mark.parametrize("change", ["parametrized", "wrapped", "tied", "nothing", "no gradient"])
def test_the_same_weights_under_other_names_are_no_news(
    change: str, caplog: pytest.LogCaptureFixture
) -> None:
    net = network()
    optimizer = modula.recipes.muon(net)
    if change == "parametrized":
        parametrize.register_parametrization(net[0], "weight", nn.Identity())
    elif change == "wrapped":
        net[2] = nn.Sequential(nn.Sequential(net[2]))
    elif change == "tied":
        net[1] = nn.Sequential(nn.Tanh(), net[2])
    elif change == "no gradient":
        net[1].extra = nn.Linear(2, 2)
    with caplog.at_level(logging.WARNING):
        net(torch.randn(2, 6)).square().mean().backward()
        optimizer.step()
    assert not caplog.records


def test_a_watch_keeps_no_model_alive() -> None:
    net, optimizer = trained()
    watch = ModelWatch(net)
    optimizer._statistics = None
    assert watch.model is net
    weights = optimizer._own.all
    del net
    gc.collect()
    assert watch.model is None
    watch.look(weights)
