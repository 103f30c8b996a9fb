"""Options in param_groups act in every recipe as those that it is built with."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from gradients import fill_gradients
from torch.optim import lr_scheduler

import modula
from live_options import advance, build, train, weights
from modula.recipes import RECIPES

BETAS = {"betas": (0.8, 0.7)}
# What may be changed of each recipe's first group, and under which options it is built with.
CHANGES: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.5},
    "sign": {"momentum": 0.5},
    "lion": BETAS,
    "muon": {"momentum": 0.5},
    "normuon": {"momentum": 0.5},
    "adamuon": {"momentum": 0.5},
    "scion": {"momentum": 0.5},
    "adamw": BETAS | {"eps": 0.1},
    "adam": BETAS | {"eps": 0.1},
    "rmsprop": {"alpha": 0.7, "eps": 0.1, "momentum": 0.5},
    "adagrad": {"eps": 0.1},
    "root_free": {"momentum": 0.5, "beta": 0.7, "damping": 0.1},
    "modular": {"momentum": 0.5},
    "clipped": {"momentum": 0.5},
    "agd": {},
    "automatic": {"momentum": 0.5},
    "hypersphere": {"momentum": 0.5},
    "oblique": {"momentum": 0.5},
    "manifold_muon": {"momentum": 0.5},
    "unit_condition": {"momentum": 0.5},
    "spectral_sphere": {"momentum": 0.5},
    "poet": BETAS | {"eps": 0.1},
    "kl_shampoo": {"momentum": 0.9, "beta": 0.7},  # its guard is made of the momentum
    "kfac": {"momentum": 0.5, "beta": 0.7},
    "ekfac": {"momentum": 0.5, "beta": 0.7},
    "foof": {"momentum": 0.5, "beta": 0.7},
    "newton_muon": {"momentum": 0.5, "beta": 0.7},
    "newton_muon_sandwich": {"momentum": 0.5, "beta": 0.7},
    "sophia": BETAS | {"eps": 0.1},
    "ivon": BETAS,
    "soap": {"momentum": 0.5, "beta": 0.7},
    "kl_soap": {"momentum": 0.5, "beta": 0.7},
    "eshampoo": {"momentum": 0.5, "beta": 0.7},
    "soap_muon": {"momentum": 0.5, "beta": 0.7},
    "psgd_pro": {"momentum": 0.5},
    "psgd": {"momentum": 0.5},
    "psgd_lra": {"momentum": 0.5},
    "if_shampoo": {"momentum": 0.5},
    "singd": {"momentum": 0.5},
    "shampoo": BETAS | {"graft_beta": 0.6, "graft_eps": 0.1},
    "shampoo_squared": {"momentum": 0.5, "beta": 0.7},
    "one_sided": {"momentum": 0.5, "beta": 0.7},
    "asgo": BETAS,
    "bias_corrected_adamw": BETAS | {"eps": 0.1},
    "bias_corrected_sophia": BETAS,
    "bias_corrected_shampoo": BETAS | {"graft_beta": 0.6, "graft_eps": 0.1},
}


def test_the_table_has_every_recipe() -> None:
    assert CHANGES.keys() == RECIPES.keys()


@pytest.mark.parametrize("name", [*RECIPES])
def test_options_set_later_act_as_those_that_it_is_built_with(name: str) -> None:
    changes = CHANGES[name]
    built, set_later = build(name, **changes), build(name)
    both = name == "poet"  # whose options are those of all weights
    for group in set_later[1].param_groups[: 1 + both]:
        group.update(changes)
    for each in (built, set_later):
        train(*each)
    for a, b in zip(weights(built[0]), weights(set_later[0]), strict=True):
        torch.testing.assert_close(a, b)
    if changes and name != "kl_shampoo":  # whose change is of half of it
        for key, value in changes.items():
            alone, plain = build(name), build(name)
            alone[1].param_groups[0][key] = value
            for each in (alone, plain):
                train(*each)
            pairs = zip(weights(alone[0]), weights(plain[0]), strict=True)
            assert any(not torch.equal(a, b) for a, b in pairs), key


@pytest.mark.parametrize("name", [*RECIPES])
def test_weight_decay_acts_from_the_step_on_in_which_it_is_set(name: str) -> None:
    (plain, undecayed), (net, optimizer) = build(name), build(name)
    for each in undecayed.param_groups:
        each["weight_decay"] = 0.0
    for each in optimizer.param_groups:
        each["weight_decay"] = 0.0
    train(plain, undecayed)
    train(net, optimizer)
    before = weights(net)
    for a, b in zip(before, weights(plain), strict=True):
        assert torch.equal(a, b)
    for each in optimizer.param_groups:
        each["weight_decay"] = 0.5
    train(net, optimizer, 3)
    train(plain, undecayed, 3)
    assert any(not torch.equal(a, b) for a, b in zip(weights(net), weights(plain), strict=True))


DECAYED = [name for name in RECIPES if "weight_decay" in modula.recipes.options.OPTIONS[name]]


@pytest.mark.parametrize("name", DECAYED)
def test_weight_decay_set_later_is_that_of_construction(name: str) -> None:
    (one, built), (other, set_later) = build(name, weight_decay=0.5), build(name)
    set_later.param_groups[0]["weight_decay"] = 0.5
    train(one, built)
    train(other, set_later)
    for a, b in zip(weights(one), weights(other), strict=True):
        assert torch.equal(a, b)
    known = [[row.known_as for row in each.plan.rows] for each in (built, set_later)]
    assert known[0] == known[1]


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "soap", "adamw"])
def test_a_copy_goes_on_with_what_was_set_later(name: str) -> None:
    net, optimizer = build(name)
    optimizer.param_groups[0] |= {"weight_decay": 0.5, **CHANGES[name]}
    train(net, optimizer)
    twin, copy = deepcopy((net, optimizer))
    copy.watch(twin)
    train(net, optimizer, 3)
    train(twin, copy, 3)
    for a, b in zip(weights(net), weights(twin), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", [*RECIPES])
def test_a_momentum_or_betas_where_there_are_none_are_refused(name: str) -> None:
    net, optimizer = build(name)
    row = optimizer.param_groups[0]
    fill_gradients(net, 0)
    if "betas" not in row:
        row["betas"] = (0.9, 0.99)
        with pytest.raises(ValueError, match=r"\['betas'\] = \(0.9, 0.99\) acts on nothing"):
            optimizer.step()
    elif "momentum" not in row:
        row["momentum"] = 0.5  # the first of betas, as torch's schedulers write it
        optimizer._settle()
        assert row["betas"] == (0.5, modula.recipes.options.OPTIONS[name]["betas"].default[1])
        assert "momentum" not in row


AVERAGING = [name for name in RECIPES if CHANGES[name].keys() & {"momentum", "betas"}]


@pytest.mark.parametrize("name", AVERAGING)
def test_one_cycle_and_cyclic_schedules_cycle_the_momentum(name: str) -> None:
    net, optimizer = build(name)
    for scheduler in (
        lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=6),
        lr_scheduler.CyclicLR(optimizer, 1e-4, 1e-2, 2),
    ):
        found = []
        for seed in range(3):
            advance(net, optimizer, seed)
            found.append([own["momentum"] for own in optimizer._settle()])
            scheduler.step()
        assert found[0] != found[1]
        assert all(len({*each}) == 1 for each in found)  # in all rows alike


@pytest.mark.parametrize("name", ["agd", "adagrad"])
def test_without_an_average_there_is_no_momentum_to_cycle(name: str) -> None:
    with pytest.raises(ValueError, match="cycle_momentum"):
        lr_scheduler.OneCycleLR(build(name)[1], 0.01, total_steps=6)


def test_sgd_under_one_cycle_is_that_of_torch() -> None:
    net, optimizer = build("sgd")
    oracle = deepcopy(net)
    published = torch.optim.SGD(oracle.parameters(), 0.1)
    schedules = [lr_scheduler.OneCycleLR(o, 0.1, total_steps=8) for o in (optimizer, published)]
    for seed in range(6):
        for each in (net, oracle):
            fill_gradients(each, seed)
        optimizer.step()
        published.step()
        for schedule in schedules:
            schedule.step()
    for a, b in zip(weights(net), weights(oracle), strict=True):
        torch.testing.assert_close(a, b)
