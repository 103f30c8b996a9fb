"""What cannot be done is refused in one sentence that names the weight, and nothing is changed."""

import logging
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import modula
from modula.duality import Clip, NoMomentum, Sharp, certify
from modula.manifolds import Euclidean, Implicit, Product, Stiefel, Transposed, UnitConditionNumber
from modula.norms import (
    L2,
    Diagonal,
    Eigenbasis,
    First,
    Frobenius,
    FromDual,
    Kronecker,
    KyFan,
    KyFanDual,
    LayerMoments,
    MaxOf,
    Metric,
    RMSToRMS,
)
from modula.recipes import RECIPES


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def values(net: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in net.parameters()]


def impossible(w: Tensor) -> Tensor:
    return w.square().sum() + 1


def flat(w: Tensor) -> Tensor:
    return (w.square().sum() - 1).square()


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Stiefel(), r"or declare Transposed\(Stiefel\(\)\)"),
        (UnitConditionNumber(), r"or declare Transposed\(UnitConditionNumber\(\)\)"),
        (KyFan(5), r"KyFan\(5\) needs 5 singular values.*use k = 4 or less"),
        (2.0 * KyFanDual(5), r"use k = 4 or less"),
        (KyFan(3).on("(h d) i -> h d i", h=2), r"use k = 2 or less"),
        (Implicit(impossible), r"has no point within"),
        (RMSToRMS().on("(h d) i -> h d i", h=3), r"can't divide axis of length 4"),
    ],
    ids=str,
)
def test_what_no_weight_of_the_shape_can_obey(
    choice: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    net = network()
    before = values(net)
    declared = modula.declare(net, {"0.weight": Stiefel(), "2.weight": choice})
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match=words) as error:
        modula.SteepestDescent(declared)
    assert str(error.value).startswith("2.weight: ")
    assert "\n" not in str(error.value)
    assert not caplog.messages  # 0.weight is off Stiefel(), but has not been projected
    assert all(map(torch.equal, values(net), before))


def test_a_weight_on_a_manifold_without_tangents_is_refused() -> None:
    net = network()
    with torch.no_grad():
        net[2].weight /= net[2].weight.norm()
    with pytest.raises(ValueError, match=r"2.weight: the Jacobian of .* is rank-deficient"):
        modula.SteepestDescent(modula.declare(net, {"2.weight": Implicit(flat)}))


def test_a_tall_weight_is_sent_back_from_the_transposed_manifold() -> None:
    with pytest.raises(ValueError, match=r"Transposed\(Stiefel\(\)\) has .* declare Stiefel\(\)"):
        Transposed(Stiefel()).check_shape((3, 2))


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


@pytest.mark.parametrize(
    "choice", ["muon", Product((("a", Stiefel()),)), MaxOf({"a": (L2(), 1.0)})], ids=str
)
def test_what_is_no_geometry_of_one_weight(choice: Any) -> None:
    with pytest.raises(ValueError, match="is no geometry of one weight: give a Norm"):
        modula.declare(network(), {"0.weight": choice})


def test_what_is_no_function() -> None:
    not_callable: Any = 3
    with pytest.raises(ValueError, match="FromDual needs the dual norm as a function"):
        FromDual(not_callable)
    with pytest.raises(ValueError, match="Implicit needs a function that is zero on the manifold"):
        Implicit(not_callable)


@pytest.mark.parametrize("f", [lambda g: g.abs().sum().item(), lambda g: g.abs()])
def test_a_dual_norm_that_is_not_one_number_of_tensors(f: Any) -> None:
    with pytest.raises(ValueError, match=r"on \(3, 2\): f is to give one number"):
        FromDual(f).duality_map(torch.ones(3, 2))


@pytest.mark.parametrize(
    "given", [{"momentum": NoMomentum()}, {"potential": Sharp()}, {"weight_decay": 0.1}], ids=str
)
def test_what_has_no_effect_beside_groups_is_refused(given: dict[str, Any]) -> None:
    net = network()
    groups = [modula.Group(modula.optimizer.param_groups.declarations_of(net))]
    with pytest.raises(ValueError, match=f"{[*given][0]}=.* has no effect beside groups"):
        modula.SteepestDescent(net, groups=groups, **given)


def test_a_length_that_groups_and_optimizer_do_not_agree_on_is_refused() -> None:
    net = network()
    clipped = modula.optimizer.param_groups.declarations_of(net, potential=Clip(2.0))
    with pytest.raises(ValueError, match=r"0.weight: Clip\(rho=2.0\) sets .* potential=Clip"):
        modula.SteepestDescent(net, groups=[modula.Group(clipped)])
    modula.SteepestDescent(net, groups=[modula.Group(clipped)], potential=Clip(2.0))


def test_recipes_refuse_what_is_no_radius() -> None:
    with pytest.raises(ValueError, match="radii must be positive and finite"):
        modula.recipes.scion(network(), radius=float("inf"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": "x"}, "needs a number or an Automatic for lr, such as 0.1; got 'x'"),
        ({"lr": float("nan")}, "needs a number or an Automatic for lr, such as 0.1; got nan"),
        ({"lr": -1}, "lr must be zero or positive"),
        ({"momentum": 0.9}, r"needs a Momentum for momentum, such as Average\(beta=0.95, nest"),
        ({"potential": "unit"}, r"needs a Potential for potential, such as Unit\(\); got 'unit'"),
        ({"potential": Sharp}, r"needs a Potential for potential: write Sharp\(...\) with"),
        ({"weight_decay": None}, "needs a number or a Decay for weight_decay, such as 0.0; got N"),
        ({"groups": [3]}, r"needs a list of which each is a Group or None for groups; got \[3\]"),
        ({"maximize": "no"}, "needs True or False for maximize, such as False; got 'no'"),
        ({"certify_every": True}, "certify_every is a whole number of steps from 1 up; got True"),
        ({"certify_every": "100"}, "certify_every is a whole number of steps from 1 up; got '100'"),
        ({"certify_every": -3}, "certify_every is a whole number of steps from 1 up; got -3"),
        ({"process_group": "all"}, "needs a ProcessGroup for process_group; got 'all'"),
        ({"state_dtype": "bfloat16"}, "state_dtype is torch.bfloat16 or None; got bfloat16"),
    ],
    ids=str,
)
def test_an_argument_of_another_kind(given: dict[str, Any], words: str) -> None:
    net = network()
    before = values(net)
    with pytest.raises(ValueError, match=words) as error:
        modula.SteepestDescent(modula.declare(net, {"0.weight": Stiefel()}), **given)
    assert "\n" not in str(error.value)
    assert all(map(torch.equal, values(net), before))


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


def test_a_group_of_what_is_no_declaration() -> None:
    net = network()
    optimizer = modula.SteepestDescent(net)
    weight = nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="needs a Declaration for 'extra'; got RMSToRMS"):
        optimizer.add_param_group({"params": [("extra", weight)], "declarations": [RMSToRMS()]})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="lr must be zero or positive, and finite; got -1"):
        modula.Group(modula.optimizer.param_groups.declarations_of(net), -1)


def test_a_certificate_needs_a_shape_that_the_manifold_has() -> None:
    wide = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"or declare Transposed\(Stiefel\(\)\)"):
        certify(RMSToRMS(), Stiefel(), wide, wide, wide)


@pytest.mark.parametrize("name", ["weight", "gradient", "direction"])
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.tensor([[1.0, float("nan")]]), "the {} is not finite in 1 of 2 entries"),
        (torch.tensor([[float("inf")] * 2]), "the {} is not finite in 2 of 2 entries"),
        (torch.tensor([[1, 2]]), "the {} is of torch.int64: a certificate needs real floating"),
        (torch.tensor([[1j, 2]]), "the {} is of torch.complex64: a certificate needs real"),
        (torch.ones(1, 2, device="meta"), "on one device, with their values; got .*meta"),
        (torch.ones(2, 1), "all of one shape; got "),
        ([[1.0, 2.0]], r"certify needs a Tensor for {}; got \[\[1.0, 2.0\]\]"),
    ],
    ids=str,
)
def test_a_certificate_needs_numbers_of_one_kind(name: str, bad: Any, words: str) -> None:
    given = {each: torch.ones(1, 2) for each in ("weight", "gradient", "direction")} | {name: bad}
    with pytest.raises(ValueError, match=words.format(name)) as error:
        certify(RMSToRMS(), Euclidean(), **given)
    assert "\n" not in str(error.value)


def test_a_certificate_needs_a_norm_and_a_manifold() -> None:
    x, nothing = torch.ones(1, 2), Any
    with pytest.raises(ValueError, match="certify needs a Norm for norm"):
        certify(nothing, Euclidean(), x, x, x)
    with pytest.raises(ValueError, match=r"certify needs a Manifold for manifold, such as Eucl"):
        certify(RMSToRMS(), nothing, x, x, x)


def test_a_layer_that_shows_no_inputs_is_found_before_any_weight_is_projected() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.own = nn.Parameter(torch.ones(3, 3))

    net = Own()
    before = values(net)
    overrides = {"linear.weight": Stiefel(), "own": L2(2).under(LayerMoments())}
    with pytest.raises(ValueError, match="own"):
        modula.SteepestDescent(modula.declare(net, overrides))
    assert all(map(torch.equal, values(net), before))


@pytest.mark.parametrize(
    "metric",
    [
        Diagonal(statistic="sampled_gradeint"),
        First(Kronecker(statistic="sampled_gradeint")),
        Eigenbasis(Kronecker(statistic="sampled_gradeint")),
        LayerMoments(inputs="sampled_gradeint"),
    ],
    ids=str,
)
def test_a_statistic_that_nothing_measures(metric: Metric) -> None:
    net = modula.declare(network(), {"0.weight": L2(2).under(metric)})
    words = "^0.weight: .*'sampled_gradeint', which nothing measures: the nearest is 'sampled_grad"
    with pytest.raises(ValueError, match=words):
        modula.SteepestDescent(net)
