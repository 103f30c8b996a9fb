"""What cannot be done is refused in one sentence that names the weight, and nothing is changed."""

import logging
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import modula
from modula.duality import Clip, certify
from modula.manifolds import Implicit, Product, Stiefel, Transposed, UnitConditionNumber
from modula.norms import L2, Frobenius, FromDual, KyFan, KyFanDual, MaxOf, RMSToRMS


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


def test_what_has_no_effect_beside_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="weight_decay=0.1 have no effect beside groups"):
        modula.recipes.hypersphere(network(), weight_decay=0.1)
    net = network()
    clipped = modula.groups.declarations_of(net, potential=Clip(2.0))
    with pytest.raises(ValueError, match=r"0.weight: Clip\(rho=2.0\) sets .* potential=Clip"):
        modula.SteepestDescent(net, groups=[modula.Group(clipped)])
    modula.SteepestDescent(net, groups=[modula.Group(clipped)], potential=Clip(2.0))


def test_recipes_refuse_what_is_no_chart_and_no_radius() -> None:
    with pytest.raises(ValueError, match=r"Rotations need a chart such as Cayley\(\)"):
        modula.recipes.poet(network(), chart="cayley")
    with pytest.raises(ValueError, match="radii must be positive and finite"):
        modula.recipes.scion(network(), radius=float("inf"))


def test_a_certificate_needs_a_shape_that_the_manifold_has() -> None:
    wide = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"or declare Transposed\(Stiefel\(\)\)"):
        certify(RMSToRMS(), Stiefel(), wide, wide, wide)
