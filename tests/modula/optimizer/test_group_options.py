"""Every key of param_groups acts or is refused, at the next step and before anything moves."""

import logging
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from gradients import fill_gradients
from torch import nn
from torch.optim import lr_scheduler

import modula
from live_options import build, train, weights
from modula.duality import (
    Average,
    Behind,
    BehindMetric,
    Coupled,
    Declaration,
    Decoupled,
    HeavyBall,
    NoMomentum,
    Setting,
    Sharp,
)
from modula.norms import L2, RMSToRMS

PLACES = [
    (Decoupled, Setting(RMSToRMS(), momentum=Average(0.9))),
    (modula.duality.Cautious, Setting(L2(2), momentum=Average(0.9))),
    (Coupled, Setting(L2(2), potential=Sharp(), momentum=HeavyBall(0.9))),
    (BehindMetric, Setting(L2(2), potential=Sharp(), momentum=Behind(HeavyBall(0.9)))),
    (lambda rate: modula.duality.Independent(rate, 0.1), Setting(L2(2), momentum=Average(0.9))),
]


@pytest.mark.parametrize(("place", "setting"), PLACES, ids=range(len(PLACES)))
def test_a_rate_of_zero_waits_at_its_place_and_costs_nothing(
    place: Callable[[float], modula.duality.Decay], setting: Setting
) -> None:
    found = []
    for declared, later in ((0.5, None), (0.0, 0.5)):
        layer = nn.Linear(5, 4, bias=False)
        nn.init.constant_(layer.weight, 0.5)
        declaration = Declaration(setting, weight_decay=place(declared))
        optimizer = modula.SteepestDescent(
            layer, 0.1, groups=[modula.Group({"weight": declaration})]
        )
        if later is not None:
            none = Declaration(setting, weight_decay=None)
            without = modula.duality.program_of(none, (4, 5))
            assert optimizer.plan["weight"].program == without
            optimizer.param_groups[0]["weight_decay"] = later
        for seed in range(3):
            fill_gradients(layer, seed)
            optimizer.step()
        found.append(layer.weight.detach())
    assert torch.equal(*found)


def test_a_momentum_of_zero_keeps_no_state_until_it_is_more() -> None:
    net, optimizer = build("sgd")
    assert optimizer.plan.rows[0].known_as == "SGD"
    oracle = deepcopy(net)
    published = torch.optim.SGD(oracle.parameters(), 0.1)
    for momentum in (0.0, 0.9, 0.5, 0.0):
        optimizer.param_groups[0]["momentum"] = momentum
        published.param_groups[0]["momentum"] = momentum
        for each in (net, oracle):
            fill_gradients(each, int(10 * momentum))
        optimizer.step()
        published.step()
        for a, b in zip(weights(net), weights(oracle), strict=True):
            torch.testing.assert_close(a, b)
        assert bool(optimizer.state[net[0].weight]) == (momentum > 0)
    assert optimizer.plan.rows[0].known_as == "SGD"


def test_state_is_saved_and_loaded_with_a_momentum_that_was_set_later() -> None:
    for first in (0.0, 0.9):
        net, optimizer = build("sgd")
        optimizer.param_groups[0]["momentum"] = 0.9
        train(net, optimizer)
        saved, at = deepcopy(optimizer.state_dict()), deepcopy(net.state_dict())
        train(net, optimizer, 3)
        other, resumed = build("sgd")
        other.load_state_dict(at)
        resumed.param_groups[0]["momentum"] = first
        train(deepcopy(other), resumed)  # which wakes the momentum, or does not
        resumed.load_state_dict(saved)
        train(other, resumed, 3)
        for a, b in zip(weights(net), weights(other), strict=True):
            assert torch.equal(a, b)
    resting = build("sgd")[1].state_dict()
    optimizer.load_state_dict(resting)
    assert not optimizer.state[net[0].weight]


UNKNOWN = [
    ("weigth_decay", 0.1, "did you mean weight_decay"),
    ("foreach", True, "known: lr, "),
    ("fused", None, "known: lr, "),
    ("capturable", False, "known: lr, "),
    ("differentiable", False, "known: lr, "),
    ("amsgrad", True, "known: lr, "),
    ("dampening", 0.1, "fixed when the optimizer is built"),
    ("beta1", 0.9, "known: lr, "),
    ("epsilon", 1e-8, "known: lr, "),
    ("learning_rate", 0.1, "known: lr, "),
    ("maximise", True, "did you mean maximize"),
    ("layers", (1, 2), r"= \(1, 2\) acts on nothing"),
]


@pytest.mark.parametrize(("key", "value", "words"), UNKNOWN, ids=str)
@pytest.mark.parametrize("name", ["sgd", "adamw", "muon", "kfac"])
def test_a_key_that_nothing_reads_is_refused(
    name: str, key: str, value: object, words: str
) -> None:
    net, optimizer = build(name)
    last = len(optimizer.param_groups) - 1
    optimizer.param_groups[last][key] = value
    before = weights(net)
    fill_gradients(net, 0)
    with pytest.raises(ValueError, match=rf"param_groups\[{last}\]\['{key}'\].*{words}") as error:
        optimizer.step()
    assert "\n" not in str(error.value)
    for a, b in zip(before, weights(net), strict=True):
        assert torch.equal(a, b)
    del optimizer.param_groups[last][key]
    optimizer.step()


BAD_VALUES = [
    ("lr", float("nan"), "needs a number for 'lr', such as 0.1; got nan"),
    ("lr", -1.0, r"param_groups\[0\]\['lr'\] must be zero or positive, and finite; got -1"),
    ("lr", None, "needs a number for 'lr'"),
    ("lr", torch.tensor(float("nan")), "needs a number for 'lr'"),
    ("weight_decay", -0.1, r"\['weight_decay'\] must be zero or positive, and finite; got -0.1"),
    ("weight_decay", None, "needs a number for 'weight_decay', such as 0.01; got None"),
    ("weight_decay", True, "needs a number for 'weight_decay'"),
    ("weight_decay", torch.tensor(0.1), "needs a number of the host for 'weight_decay'"),
    ("betas", (0.9,), r"needs \(a number, a number\) for 'betas', such as \(0.9, 0.999\)"),
    ("betas", (0.9, 1.0), r"\['betas'\] must be in \[0, 1\); got 1.0"),
    ("betas", (1.5, 0.9), r"\['betas'\] must be in \[0, 1\); got 1.5"),
    ("betas", 0.9, r"needs \(a number, a number\) for 'betas'"),
    ("eps", -1e-8, r"\['eps'\] must be zero or positive"),
    ("eps", "small", "needs a number for 'eps'"),
    ("maximize", 1, "needs True or False for 'maximize'"),
]


@pytest.mark.parametrize(("key", "value", "words"), BAD_VALUES, ids=str)
def test_a_value_that_will_not_do_is_refused_before_anything_moves(
    key: str, value: object, words: str
) -> None:
    net, optimizer = build("adamw")
    fill_gradients(net, 0)
    optimizer.step()
    before, kept = weights(net), optimizer.param_groups[0][key]
    optimizer.param_groups[0][key] = value
    with pytest.raises(ValueError, match=words):
        optimizer.step()
    for a, b in zip(before, weights(net), strict=True):
        assert torch.equal(a, b)
    optimizer.param_groups[0][key] = kept
    optimizer.step()


def test_a_key_that_is_deleted_is_missed() -> None:
    net, optimizer = build("muon")
    del optimizer.param_groups[1]["eps"]
    fill_gradients(net, 0)
    with pytest.raises(ValueError, match=r"param_groups\[1\] has no 'eps' any more"):
        optimizer.step()


def test_rows_are_added_by_their_method_alone() -> None:
    net, optimizer = build("muon")
    fill_gradients(net, 0)
    row = optimizer.param_groups.pop()
    with pytest.raises(ValueError, match="has 1 groups, and this optimizer 2"):
        optimizer.step()
    optimizer.param_groups.append(row)
    optimizer.step()


def test_texts_and_the_notes_of_schedulers_are_let_be() -> None:
    net, optimizer = build("adamw")
    optimizer.param_groups[0] |= {"name": "head", "initial_lr": 0.1, "swa_lr": 0.1, "max_lr": 1.0}
    optimizer.param_groups[0]["betas"] = [0.5, 0.6]
    fill_gradients(net, 0)
    optimizer.step()
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.6)
    schedule = torch.optim.swa_utils.SWALR(optimizer, 0.05)
    optimizer.step()
    schedule.step()
    optimizer.step()


def test_an_added_group_is_checked_at_once() -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    declaration = Declaration(Setting(L2(2), momentum=Average(0.9)))
    given: dict[str, Any] = {"params": [("extra", weight)], "declarations": [declaration]}
    _, optimizer = build("adamw")
    for wrong in ({"decay": 0.1}, {"weight_decay": -1}, {"betas": (0.9, 0.99)}, {"lr": None}):
        with pytest.raises(ValueError, match=r"param_groups\[1\]"):
            optimizer.add_param_group(given | wrong)
        assert len(optimizer.param_groups) == 1
    optimizer.add_param_group(given | {"lr": 0.1, "weight_decay": 0.5, "momentum": 0.0})
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((3, 2), 0.95))


def test_weights_of_a_group_share_their_options() -> None:
    def row(*declared: Declaration) -> modula.Group:
        return modula.Group(dict(zip(("0.weight", "2.weight"), declared, strict=True)))

    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    norms = [Declaration(Setting(L2(2), momentum=Average(beta))) for beta in (0.9, 0.8)]
    with pytest.raises(ValueError, match=r"0.weight declares momentum 0.9, 2.weight 0.8"):
        modula.SteepestDescent(net, groups=[row(*norms)])
    still = Setting(L2(2), momentum=NoMomentum())
    decays = [Declaration(still, weight_decay=rate) for rate in (0.1, 0.2)]
    with pytest.raises(ValueError, match=r"0.weight declares weight_decay 0.1, 2.weight 0.2"):
        modula.SteepestDescent(net, groups=[row(*decays)])
    one = row(Declaration(still), Declaration(still, weight_decay=0.5))
    optimizer = modula.SteepestDescent(net, 0.1, groups=[one])
    before = weights(net)
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(net[0].weight.detach(), before[0])  # declared without
    torch.testing.assert_close(net[2].weight.detach(), 0.95 * before[1])


def test_maximize_acts_by_group() -> None:
    net, optimizer = build("muon", momentum=0.0)
    before = weights(net)
    fill_gradients(net, 0)
    optimizer.param_groups[1]["maximize"] = True
    optimizer.step()
    for weight, then in zip(net.parameters(), before, strict=True):
        moved = ((weight.detach() - then) * weight.grad).sum()
        assert (moved > 0) == (weight.ndim == 1)
    with pytest.raises(ValueError, match="param_groups differ in 'maximize'"):
        optimizer = build("kfac")[1]
        optimizer.param_groups[1]["maximize"] = True
        optimizer.step()


@pytest.mark.parametrize(
    ("lr", "rate", "logged"), [(2.0, 0.8, True), (0.5, 3.0, True), (1.0, 1.0, False)]
)
def test_a_decay_of_more_than_the_weight_is_logged_once(
    lr: float, rate: float, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    net, optimizer = build("sgd", lr=lr)
    fill_gradients(net, 0)
    optimizer.step()
    assert not caplog.messages
    optimizer.param_groups[0]["weight_decay"] = rate
    for _ in range(2):
        optimizer.step()
    product = f"{lr:.4g} * 1 * {rate:.4g} = {lr * rate:.4g} in param_groups[0]"
    assert [product in each for each in caplog.messages] == ([True] if logged else [])
    assert all("0.weight changes its sign" in each for each in caplog.messages)


def test_the_budget_of_a_weight_is_in_what_it_loses(caplog: pytest.LogCaptureFixture) -> None:
    net = modula.Linear(4, 16) @ modula.ReLU() @ modula.Linear(16, 8)
    optimizer = modula.recipes.modular(net, 1.5, weight_decay=1.0)
    assert {row.budget for row in optimizer.plan.rows} == {0.5}
    fill_gradients(net, 0)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = torch.tensor(5.0)  # which nobody waits for
    optimizer.step()
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):
        optimizer.param_groups[0]["lr"] = 3.0
        optimizer.step()
    assert "3 * 0.5 * 1 = 1.5" in caplog.text


def test_a_checkpoint_from_before_there_were_betas_loads() -> None:
    net, optimizer = build("adamw", weight_decay=0.1)
    train(net, optimizer)
    saved = deepcopy(optimizer.state_dict())
    row = saved["param_groups"][0]
    row["momentum"] = row["betas"][0]
    for key in ("betas", "eps", "maximize"):
        del row[key]
    other, resumed = build("adamw", weight_decay=0.1)
    other.load_state_dict(net.state_dict())
    resumed.load_state_dict(saved)
    train(net, optimizer, 3)
    train(other, resumed, 3)
    for a, b in zip(weights(net), weights(other), strict=True):
        assert torch.equal(a, b)


def test_what_is_saved_before_a_step_has_what_its_options_ask_for() -> None:
    net, optimizer = build("sgd")
    lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=8)
    saved = optimizer.state_dict()
    assert saved["state"][0]["momentum"].shape == net[0].weight.shape
    build("sgd")[1].load_state_dict(saved)


def test_a_weight_is_replaced_with_a_momentum_that_was_set_later() -> None:
    net, optimizer = build("sgd")
    optimizer.param_groups[0]["momentum"] = 0.9
    train(net, optimizer)
    kept = optimizer.state[net[0].weight]["momentum"][:4].clone()
    new = nn.Parameter(net[0].weight.detach()[:4].clone())
    optimizer.replace("0.weight", new, rows=[0, 1, 2, 3])
    new.grad = torch.zeros_like(new)
    for weight in net.parameters():
        weight.grad = None
    optimizer.step()
    torch.testing.assert_close(optimizer.state[new]["momentum"], 0.9 * kept)
