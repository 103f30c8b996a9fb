"""Declaring plain torch models: by type, by role, by name; nothing is guessed in silence."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import modula
from modula.manifolds import Euclidean, Product, Stiefel
from modula.norms import L2, Frobenius, Max, MaxOf, RMSToRMS
from modula.recipes import RECIPES


class Tied(nn.Module):
    """An embedding whose weight is the head's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.lm_head = nn.Linear(4, 10, bias=False)
        self.lm_head.weight = self.embed.weight


class Mystery(nn.Module):
    """A weight that no default knows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(3, 3))


def declared(model: nn.Module, name: str) -> modula.Geometry:
    return modula.geometries(modula.declare(model))[name]


@pytest.mark.parametrize(
    ("model", "name", "norm", "role"),
    [
        (nn.Linear(4, 8), "weight", "RMSToRMS()", "hidden"),
        (nn.Linear(4, 8), "bias", "RMS()", "bias"),
        (nn.Embedding(10, 4), "weight", "Rows(RMS())", "embedding"),
        (nn.LayerNorm(4), "weight", "Max()", "gain"),
        (nn.BatchNorm2d(4), "bias", "RMS()", "bias"),
        (nn.Conv2d(2, 4, 3), "weight", "9 * RMSToRMS().on('o i k0 k1 -> k0 k1 o i')", "conv"),
        (nn.ConvTranspose1d(2, 4, 5), "weight", "5 * RMSToRMS().on('i o k0 -> k0 o i')", "conv"),
        (
            nn.LSTM(4, 8),
            "weight_ih_l0",
            "RMSToRMS().on('(block o) i -> block o i', block=4)",
            "hidden",
        ),
        (nn.MultiheadAttention(4, 2), "out_proj.weight", "RMSToRMS()", "hidden"),
        (Tied(), "embed.weight", "Rows(RMS())", "tied"),
        (nn.ModuleDict({"head": nn.Linear(4, 8)}), "head.weight", "RMSToRMS()", "head"),
    ],
    ids=str,
)
def test_defaults_by_type(model: nn.Module, name: str, norm: str, role: str) -> None:
    geometry = declared(model, name)
    assert (str(geometry.norm), geometry.role) == (norm, role)


def test_every_declared_weight_can_be_trained() -> None:
    for model in (nn.Conv2d(2, 4, 3), nn.LSTM(4, 8), nn.MultiheadAttention(4, 2), Tied()):
        optimizer = modula.SteepestDescent(modula.declare(model), lr=0.1)
        before = copy.deepcopy(dict(model.named_parameters()))
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight)
        optimizer.step()
        for row in optimizer.plan.rows:
            moved = dict(model.named_parameters())[row.name].detach() - before[row.name].detach()
            norm = modula.geometries(model)[row.name].norm
            assert float(norm(moved)) == pytest.approx(0.1, rel=0.15)


def test_overrides_by_name_role_and_type() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.LayerNorm(8))
    modula.declare(model, {"1.*t": Stiefel(), "bias": Max(), nn.LayerNorm: Max()})
    found = modula.geometries(model)
    assert found["1.weight"] == modula.Geometry(RMSToRMS(), Stiefel())
    assert found["0.weight"].manifold == Euclidean()
    assert found["0.bias"].norm == Max()


def test_a_whole_geometry_covers_what_no_default_knows() -> None:
    model = modula.declare(Mystery(), {"table": Frobenius()})
    assert modula.geometries(model)["table"].norm == Frobenius()


def test_undeclared_weights_are_listed_and_nothing_is_changed() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": Mystery()})
    with pytest.raises(ValueError, match=r"no geometry is known for b\.table"):
        modula.declare(model)
    assert modula.geometries(model) == {}
    with pytest.raises(ValueError, match=r"declared for b\.table"):
        modula.recipes.muon(model)


def test_an_override_that_covers_nothing_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'0\.wieght' covers no weight; .*0\.weight"):
        modula.declare(nn.Sequential(nn.Linear(2, 2)), {"0.wieght": RMSToRMS()})


def test_a_matrix_norm_on_a_bias_says_what_would_work() -> None:
    with pytest.raises(ValueError, match=r"RMSToRMS\(\) measures matrices.*RMS\(\)"):
        modula.declare(nn.Linear(2, 2), {"bias": RMSToRMS()})


def test_declarations_survive_copying_and_loading() -> None:
    model = modula.declare(nn.Sequential(nn.Linear(4, 8)))
    before = modula.geometries(model)
    assert modula.geometries(copy.deepcopy(model)) == before
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    assert modula.geometries(model) == before


def test_frozen_weights_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Mystery())
    model[1].table.requires_grad_(False)
    assert [row.name for row in modula.recipes.modular(model).plan.rows] == ["0.weight", "0.bias"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize(
    "choice", ["muon", Product((("a", Stiefel()),)), MaxOf({"a": (L2(), 1.0)})], ids=str
)
def test_what_is_no_geometry_of_one_weight(choice: Any) -> None:
    with pytest.raises(ValueError, match="is no geometry of one weight: give a Norm"):
        modula.declare(network(), {"0.weight": choice})


def test_what_is_no_network() -> None:
    words = "needs the network itself, a torch.nn.Module, and not its parameters"
    parameters: Any = network().parameters()
    for make in (modula.SteepestDescent, modula.declare, *RECIPES.values()):
        with pytest.raises(ValueError, match=words):
            make(parameters)


def test_overrides_that_are_none() -> None:
    overrides: Any = [("0.weight", Stiefel())]
    with pytest.raises(ValueError, match="declare needs a mapping from names, roles or types"):
        modula.declare(network(), overrides)
    with pytest.raises(ValueError, match="the override 3 is no name, no role and no type of mod"):
        modula.declare(network(), {3: Stiefel()})
