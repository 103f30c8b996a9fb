"""Weights off their manifold are projected when all is derived, and not for their own rounding."""

import logging
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import modula
from modula import Group, SteepestDescent
from modula.duality import Declaration, Setting
from modula.manifolds import (
    Implicit,
    Isospectral,
    Manifold,
    NormBall,
    Oblique,
    SpectralBall,
    SpectralBand,
    SpectralSphere,
    Sphere,
    Stiefel,
    UnitConditionNumber,
)
from modula.norms import (
    L2,
    RMS,
    Columns,
    Frobenius,
    KyFan,
    KyFanDual,
    LayerMoments,
    RMSToRMS,
    Rows,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def values(net: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in net.parameters()]


@pytest.mark.parametrize(
    ("norm", "manifold"),
    [
        (RMSToRMS(), Stiefel()),
        (RMSToRMS(), Stiefel(radius=2.0)),
        (Frobenius(), Sphere(ndim=2)),
        (Rows(RMS()), Oblique("rows")),
        (Columns(RMS()), Oblique("columns")),
        (Frobenius(), Stiefel()),
        (RMSToRMS(), SpectralBall(0.5)),
        (RMSToRMS(), SpectralBand(0.5, 1.0)),
        (Frobenius(), NormBall(Frobenius(), 0.5)),
        (Frobenius(), Isospectral((3.0, 2.0, 1.0, 0.5))),
    ],
    ids=str,
)
def test_weights_start_and_stay_on_their_manifold(
    norm: Any, manifold: Any, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    net = modula.declare(nn.Linear(5, 9, bias=False), {"weight": modula.Geometry(norm, manifold)})
    with caplog.at_level(logging.WARNING):
        optimizer = SteepestDescent(net, lr=0.1)
    (line,) = caplog.messages
    assert re.fullmatch(r"weight was \d.* off .*: projected", line)
    losses = []
    target = manifold.sample((9, 5))
    for _ in range(50):
        loss = (net.weight - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert float(manifold.residual(net.weight.detach()).max()) < 1e-5
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "recipe", ["manifold_muon", "unit_condition", "oblique", "spectral_sphere"]
)
def test_a_run_in_half_precision_goes_on_from_where_it_was(
    recipe: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    """Its weights are off their manifold by their own rounding: more than others that are off."""
    torch.manual_seed(0)
    net = nn.Linear(32, 48, bias=False, dtype=dtype)
    optimizer = getattr(modula.recipes, recipe)(net, 0.1)
    net.weight.grad = torch.randn(48, 32).to(dtype)
    optimizer.step()
    before = net.weight.detach().clone()
    caplog.clear()
    getattr(modula.recipes, recipe)(net, 0.1)
    assert torch.equal(net.weight, before)
    assert not caplog.messages
    with torch.no_grad():
        net.weight[0] *= 9
    getattr(modula.recipes, recipe)(net, 0.1)
    assert len(caplog.messages) == 1


def zero_of_a_square(w: Tensor) -> Tensor:
    return w.square().sum()


@pytest.mark.parametrize(
    ("manifold", "words"),
    [
        (Implicit(zero_of_a_square), "the Jacobian of .* is rank-deficient"),
        (Stiefel(), "transpose the weight"),
        (Isospectral((3.0, 2.0, 1.0, 0.5)), "give that many, or fewer"),
    ],
    ids=str,
)
def test_what_cannot_be_derived_leaves_every_weight_as_it_was(manifold: Any, words: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5, bias=False), nn.Linear(5, 3, bias=False))
    before = [weight.detach().clone() for weight in net.parameters()]
    good = modula.duality.Declaration(Setting(Frobenius(), Sphere(ndim=2)))
    bad = modula.duality.Declaration(Setting(Frobenius(), manifold))
    groups = [modula.Group({"0.weight": good}), modula.Group({"1.weight": bad})]
    with pytest.raises(ValueError, match=words) as error:
        SteepestDescent(net, groups=groups)
    assert "\n" not in str(error.value)
    for weight, was in zip(net.parameters(), before, strict=True):
        assert torch.equal(weight, was)
    only = nn.ModuleList([net[0]])
    optimizer = SteepestDescent(only, groups=[modula.Group({"0.weight": good})])
    with pytest.raises(ValueError, match=words):
        optimizer.add_param_group({"params": [("1.weight", net[1].weight)], "declarations": [bad]})
    assert len(optimizer.param_groups) == 1
    assert torch.equal(net[1].weight, before[1])
    optimizer.add_param_group({"params": [("1.weight", net[1].weight)], "declarations": [good]})
    assert Sphere(ndim=2).residual(net[1].weight.detach()) < 1e-6


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


@pytest.mark.parametrize("shape", [(6, 4), (4, 4), (2, 5, 3)], ids=str)
@pytest.mark.parametrize("manifold", [UnitConditionNumber(), Isospectral()], ids=str)
def test_a_zero_weight_that_no_step_would_move_is_refused(
    manifold: UnitConditionNumber | Isospectral, shape: tuple[int, ...]
) -> None:
    weight = nn.Parameter(torch.zeros(shape))
    net = nn.ParameterDict({"matrix": weight})
    declaration = Declaration(Setting(RMSToRMS(), manifold))
    with pytest.raises(ValueError, match="matrix: a zero matrix .*initialise it"):
        SteepestDescent(net, groups=[Group({"matrix": declaration})])
    assert not weight.any()


@pytest.mark.parametrize("name", ["unit_condition", "poet"])
def test_recipes_refuse_a_zero_hidden_matrix(name: str) -> None:
    net = network()
    nn.init.zeros_(net[0].weight)
    with pytest.raises(ValueError, match=r"0\.weight: a zero matrix"):
        modula.recipes.RECIPES[name](net)


def test_a_length_that_is_kept_is_not_zero() -> None:
    net = network()
    nn.init.zeros_(net[2].weight)
    declare_hidden = modula.recipes.muon(network(), scalers=(modula.duality.Hyperball(),))
    assert declare_hidden.plan.rows
    scaled = {
        name: Declaration(Setting(L2(weight.ndim)), scalers=(modula.duality.Hyperball(),))
        for name, weight in net.named_parameters()
    }
    with pytest.raises(ValueError, match=r"2\.weight: Hyperball\(\) keeps a weight's length"):
        SteepestDescent(net, groups=[Group(scaled)])


@pytest.mark.parametrize(
    "manifold",
    [Stiefel(), Sphere(ndim=2), Oblique("rows"), SpectralSphere(2.0), Isospectral((1.0, 0.5))],
    ids=str,
)
def test_elsewhere_a_zero_weight_is_projected_and_said(
    manifold: Manifold, caplog: pytest.LogCaptureFixture
) -> None:
    weight = nn.Parameter(torch.zeros(6, 4))
    declaration = Declaration(Setting(RMSToRMS(), manifold))
    with caplog.at_level(logging.WARNING):
        SteepestDescent(nn.ParameterDict({"w": weight}), groups=[Group({"w": declaration})])
    assert manifold.residual(weight.detach()) < 1e-5
    assert "projected" in caplog.text
