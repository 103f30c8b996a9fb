"""SteepestDescent keeps the contract of torch.optim.Optimizer, and leaves nothing half done."""

import copy
import io
import logging
import pickle
import re
from typing import Any

import pytest
import torch
from gradients import fill_gradients
from torch import Tensor, nn
from torch.optim import lr_scheduler

import modula
from modula import NonFiniteGradient, SteepestDescent
from modula.duality import Setting
from modula.manifolds import (
    Implicit,
    Isospectral,
    NormBall,
    Oblique,
    SpectralBall,
    SpectralBand,
    Sphere,
    Stiefel,
)
from modula.norms import RMS, Columns, Frobenius, RMSToRMS, Rows
from modula.recipes import RECIPES


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def snapshot(optimizer: SteepestDescent) -> list[Tensor]:
    weights = [w for group in optimizer.param_groups for w in group["params"]]
    state = [value for w in weights for value in optimizer.state[w].values()]
    return [x.detach().clone() for x in (*weights, *state)]


def assert_unchanged(optimizer: SteepestDescent, before: list[Tensor]) -> None:
    for now, then in zip(snapshot(optimizer), before, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0)


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


def test_state_exists_before_the_first_step() -> None:
    optimizer = modula.recipes.adamw(network())
    keys = [{*state} for state in optimizer.state_dict()["state"].values()]
    assert keys == [{"momentum", "step", "square"}] * 4


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


def test_loading_foreign_state_is_refused() -> None:
    net = network()
    foreign = torch.optim.SGD(net.parameters(), 0.1).state_dict()
    with pytest.raises(ValueError, match="was saved under no geometry"):
        modula.recipes.sgd(net).load_state_dict(foreign)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["muon", "adamw", "automatic"])
def test_a_non_finite_gradient_raises_before_anything_changes(name: str, bad: float) -> None:
    net = network()
    optimizer = RECIPES[name](net)
    fill_gradients(net, 0)
    optimizer.step()
    net[2].weight.grad[0, 0] = bad
    before = snapshot(optimizer)
    with pytest.raises(NonFiniteGradient, match=r"gradient of 2\.weight is not finite"):
        optimizer.step()
    assert_unchanged(optimizer, before)


def test_skipping_non_finite_steps_counts_them() -> None:
    net = network()
    optimizer = SteepestDescent(net, on_nonfinite="skip")
    fill_gradients(net, 0)
    net[0].bias.grad[0] = float("nan")
    before = snapshot(optimizer)
    optimizer.step()
    assert_unchanged(optimizer, before)
    assert optimizer.skipped == 1


def test_a_sum_that_overflows_is_not_a_non_finite_gradient() -> None:
    net = network()
    optimizer = SteepestDescent(net)
    for weight in net.parameters():
        weight.grad = torch.full_like(weight, 3e38)
    optimizer.step()
    assert all(weight.isfinite().all() for weight in net.parameters())


@pytest.mark.parametrize("name", [*RECIPES])
def test_zero_gradients_move_nothing_and_make_no_nan(name: str) -> None:
    net = network()
    flat = {"prior": 0.0} if name == "ivon" else {}  # a prior draws weights to zero, as decay does
    optimizer = RECIPES[name](net, **flat)
    weights = [weight.detach().clone() for weight in net.parameters()]
    fill_gradients(net, 0, scale=0.0)
    optimizer.step()
    decays = any("weight_decay" in group for group in optimizer.param_groups)
    projects = any(row.manifold != "Euclidean()" for row in optimizer.plan.rows)
    for now, then in zip(net.parameters(), weights, strict=True):
        assert now.isfinite().all()
        if not decays:  # a projection may round the last digit of a weight that it leaves in place
            torch.testing.assert_close(now.detach(), then, rtol=0, atol=1e-6 * projects)


def test_weights_without_a_gradient_are_left_alone() -> None:
    net = network()
    optimizer = modula.recipes.adamw(net)
    fill_gradients(net, 0)
    net[0].weight.grad = None
    before = net[0].weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(net[0].weight.detach(), before, rtol=0, atol=0)
    assert optimizer.state[net[0].weight]["step"] == 0
    assert optimizer.state[net[2].weight]["step"] == 1
    optimizer.zero_grad()
    optimizer.step()  # no gradient at all is no step


def test_closures_are_called_with_gradients_enabled() -> None:
    net = network()
    optimizer = SteepestDescent(net)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = net(torch.ones(1, 6)).square().sum()
        loss.backward()
        return loss

    before = net[0].weight.detach().clone()
    assert optimizer.step(closure).item() > 0
    assert not torch.equal(before, net[0].weight.detach())


def test_maximize_climbs() -> None:
    down, up = network(), network()
    start = [weight.detach().clone() for weight in down.parameters()]
    for net, climb in ((down, False), (up, True)):
        optimizer = modula.recipes.modular(net, 0.1, maximize=climb)
        fill_gradients(net, 0)
        optimizer.step()
    for a, b, s in zip(down.parameters(), up.parameters(), start, strict=True):
        torch.testing.assert_close(a - s, s - b)


SCHEDULERS = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda k: 1 - k / 10),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=10),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_change_the_length_of_the_step(name: str) -> None:
    net = network()
    optimizer = SteepestDescent(net, lr=0.1)
    scheduler = SCHEDULERS[name](optimizer)
    lengths = []
    for seed in range(8):
        fill_gradients(net, seed)
        before = net[0].weight.detach().clone()
        optimizer.step()
        scheduled = optimizer.param_groups[0]["lr"]
        scheduler.step()
        length = float(RMSToRMS()(net[0].weight.detach() - before))
        assert length == pytest.approx(scheduled, rel=0.15)
        assert optimizer.last_lr == pytest.approx(scheduled, rel=1e-6)
        lengths.append(length)
    assert max(lengths) > 1.2 * min(lengths)


def test_live_options_stand_in_param_groups() -> None:
    optimizer = modula.recipes.adamw(network(), betas=(0.8, 0.99), weight_decay=0.3)
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.8, 0.3)


def test_grad_scaler_and_half_precision_weights() -> None:
    net = nn.Linear(4, 4, bias=False).bfloat16()
    optimizer = modula.recipes.muon(net)
    assert optimizer.state[net.weight]["momentum"].dtype is torch.float32
    net.weight.grad = torch.randn(4, 4).bfloat16()
    optimizer.step()
    assert net.weight.dtype is torch.bfloat16
    net = network()
    optimizer = modula.recipes.muon(net)
    scaler = torch.amp.GradScaler("cpu")
    before = snapshot(optimizer)
    scaler.scale(net(torch.full((1, 6), float("inf"))).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert_unchanged(optimizer, before)


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


def test_a_param_group_without_declarations_is_refused() -> None:
    optimizer = SteepestDescent(network())
    with pytest.raises(ValueError, match="one declaration a weight; got 0 for 1"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2))]})
    assert len(optimizer.param_groups) == 1


def test_sparse_gradients_are_refused() -> None:
    net = nn.Embedding(4, 2, sparse=True)
    optimizer = modula.recipes.modular(net)
    net(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse gradient"):
        optimizer.step()


def test_nothing_grows_from_step_to_step() -> None:
    net = network()
    optimizer = modula.recipes.muon(net)
    pointers = [s.data_ptr() for state in optimizer.state.values() for s in state.values()]
    for seed in range(5):
        fill_gradients(net, seed)
        optimizer.step()
    assert pointers == [s.data_ptr() for state in optimizer.state.values() for s in state.values()]


def test_the_plan_reads_as_a_table_and_as_data() -> None:
    net = modula.GPT(vocab=32, context=8, width=16, depth=1, heads=2)
    plan = modula.recipes.automatic(net).plan
    row = plan["blocks.0.attention.query.weight"]
    assert row.shape == (16, 16)
    assert (row.role, row.norm, row.manifold) == ("hidden", "RMSToRMS()", "Euclidean()")
    assert row.budget == pytest.approx(5 / 7)
    assert row.flops > 0
    assert row.bytes > 0
    text = str(plan)
    for each in plan.rows:
        assert each.name in text
    assert "polar(" in plan.to_html()
    assert '"known_as"' in plan.to_json()
    assert "direction = polar(query)" in plan.programs()
    with pytest.raises(KeyError, match="no weight is named 'x'"):
        plan["x"]
