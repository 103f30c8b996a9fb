"""Recipes know their options by name and by kind."""

from typing import Any

import pytest
import torch
from torch import nn

import modula
from modula.duality import Clip, Hyperball, MatchRMS, Sharp
from modula.recipes import RECIPES
from modula.recipes.options import OPTIONS

# Recipes in which all weights are of one group, or in which directions are not scaled.
WITHOUT_SCALERS = {
    *("sgd", "sign", "lion", "adamw", "adam", "rmsprop", "adagrad", "root_free", "sophia", "ivon"),
    *("modular", "clipped", "agd", "automatic", "scion", "normuon", "adamuon", "poet"),
    *("hypersphere", "oblique", "manifold_muon", "unit_condition", "spectral_sphere"),
    *("bias_corrected_adamw", "bias_corrected_sophia"),
}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize("name", [*RECIPES])
def test_a_misspelt_option_is_told_with_the_nearest_one(name: str) -> None:
    for option in OPTIONS[name]:
        wrong = option[:1] + "q" + option[1:]
        with pytest.raises(TypeError, match=f"recipes.{name} has no option '{wrong}'") as error:
            RECIPES[name](network(), **{wrong: 1})
        assert f"did you mean {option}" in str(error.value) or f" or {option}?" in str(error.value)


@pytest.mark.parametrize("name", [*RECIPES])
def test_every_option_is_of_its_kind(name: str) -> None:
    bad: Any = object()
    for option in OPTIONS[name]:
        with pytest.raises(ValueError, match=f"{option}.*; got <object") as error:
            RECIPES[name](network(), **{option: bad})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*RECIPES])
def test_every_known_option_is_taken_and_its_default_changes_nothing(name: str) -> None:
    known = {key: each.default for key, each in OPTIONS[name].items()}
    given = {key: value for key, value in known.items() if value is not None}
    said, unsaid = (RECIPES[name](network(), **options).plan for options in (given, {}))
    assert said.programs() == unsaid.programs()
    assert str(said) == str(unsaid)


def test_pairs_may_be_lists() -> None:
    optimizer = modula.recipes.adamw(network(), betas=[0.8, 0.9])
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"potential": Sharp()}, r"a Clip or a ShortStep for potential; got Sharp\(\)"),
        ({"nesterov": "yes"}, "True or False for nesterov, such as True; got 'yes'"),
        ({"momentum": True}, "a number for momentum, such as 0.95; got True"),
        ({"scalers": MatchRMS()}, "a tuple of which each is a Scaler for scalers"),
        ({"adamw_betas": 0.9}, r"\(a number, a number\) for adamw_betas, such as \(0.9, 0.95\)"),
    ],
    ids=str,
)
def test_the_sentence_says_what_would_do(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"recipes.muon needs {words}"):
        modula.recipes.muon(network(), **options)


def test_what_a_recipe_says_itself_is_no_option() -> None:
    with pytest.raises(TypeError, match="recipes.clipped has no option 'potential'"):
        modula.recipes.clipped(network(), potential=Clip(2.0))
    with pytest.raises(TypeError, match="recipes.normuon has no option 'scalers'"):
        modula.recipes.normuon(network(), scalers=())
    with pytest.raises(TypeError, match="recipes.bias_corrected_adamw has no option 'corrected'"):
        modula.recipes.bias_corrected_adamw(network(), corrected=None)


def test_a_potential_is_honoured_where_the_network_says_the_geometry() -> None:
    row = modula.recipes.modular(network(), potential=Sharp()).plan.rows[0]
    assert row.potential == "Sharp()"


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - WITHOUT_SCALERS))
def test_scalers_follow_those_of_the_recipe(name: str) -> None:
    plain = RECIPES[name](network()).plan.rows[0].scalers
    row = RECIPES[name](network(), scalers=(Hyperball(),)).plan.rows[0]
    assert row.scalers == ", ".join([plain, "Hyperball()"] if plain else ["Hyperball()"])


@pytest.mark.parametrize(
    "name", ["sign", "scion", "adamw", "oblique", "manifold_muon", "unit_condition"]
)
def test_a_recipe_of_one_rate_does_without_it(name: str) -> None:
    net = nn.Linear(4, 4, bias=False)
    optimizer = getattr(modula.recipes, name)(net, lr=modula.Automatic())
    net.weight.grad = torch.ones(4, 4)
    optimizer.step()
    assert optimizer.last_lr > 0


def test_a_recipe_of_several_rates_says_that_it_needs_one() -> None:
    with pytest.raises(ValueError, match=r"recipes\.muon needs a number for lr, such as 0\.02"):
        modula.recipes.muon(nn.Linear(4, 4), lr=modula.Automatic())  # type: ignore[arg-type]


def test_sgd_is_as_long_as_gradients_and_needs_a_rate() -> None:
    with pytest.raises(ValueError, match=r"^weight: Automatic\(gain=1.0\) sets the length"):
        modula.recipes.sgd(nn.Linear(4, 4), lr=modula.Automatic())
