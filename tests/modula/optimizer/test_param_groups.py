"""Rows of param_groups are made of declarations, and their options stay live."""

from typing import Any

import pytest
import torch
from torch import nn

import modula
from modula import SteepestDescent
from modula.duality import NoMomentum, Setting, Sharp
from modula.norms import L2, RMSToRMS


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def test_live_options_stand_in_param_groups() -> None:
    optimizer = modula.recipes.adamw(network(), betas=(0.8, 0.99), weight_decay=0.3)
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.99), 1e-8, 0.3)


def test_a_param_group_without_declarations_is_refused() -> None:
    optimizer = SteepestDescent(network())
    with pytest.raises(ValueError, match="one declaration a weight; got 0 for 1"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2))]})
    assert len(optimizer.param_groups) == 1


def test_a_group_of_what_is_no_declaration() -> None:
    net = network()
    optimizer = modula.SteepestDescent(net)
    weight = nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="needs a Declaration for 'extra'; got RMSToRMS"):
        optimizer.add_param_group({"params": [("extra", weight)], "declarations": [RMSToRMS()]})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="lr must be zero or positive, and finite; got -1"):
        modula.Group(modula.optimizer.param_groups.declarations_of(net), -1)


@pytest.mark.parametrize(
    "given", [{"momentum": NoMomentum()}, {"potential": Sharp()}, {"weight_decay": 0.1}], ids=str
)
def test_what_has_no_effect_beside_groups_is_refused(given: dict[str, Any]) -> None:
    net = network()
    groups = [modula.Group(modula.optimizer.param_groups.declarations_of(net))]
    with pytest.raises(ValueError, match=f"{[*given][0]}=.* has no effect beside groups"):
        modula.SteepestDescent(net, groups=groups, **given)


def test_a_row_of_param_groups_has_the_options_of_its_own_programs_alone() -> None:
    optimizer = modula.recipes.adamw(network(), weight_decay=0.3)
    plain = modula.duality.Declaration(Setting(L2(1), momentum=NoMomentum()))
    given = {"params": [("extra", nn.Parameter(torch.zeros(3)))], "declarations": [plain]}
    optimizer.add_param_group(given)
    assert {"betas", "eps", "momentum"}.isdisjoint(optimizer.param_groups[1])
    assert optimizer.param_groups[1]["weight_decay"] == 0.0
    assert optimizer.param_groups[1]["lr"] == optimizer.param_groups[0]["lr"]
    assert optimizer.plan["extra"].norm == "L2()"
    assert [*given] == ["params", "declarations"]  # as it was given
