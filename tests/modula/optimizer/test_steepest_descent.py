"""SteepestDescent keeps the contract of torch.optim.Optimizer."""

from typing import Any

import pytest
import torch
from gradients import fill_gradients
from torch import Tensor, nn
from torch.optim import lr_scheduler

import modula
from modula import SteepestDescent
from modula.duality import Sharp
from modula.manifolds import (
    Stiefel,
)
from modula.norms import (
    L2,
    Diagonal,
    Eigenbasis,
    First,
    Kronecker,
    LayerMoments,
    Metric,
    RMSToRMS,
)
from modula.recipes import RECIPES


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("name", [*RECIPES])
def test_zero_gradients_move_nothing_and_make_no_nan(name: str) -> None:
    net = network()
    flat = {"prior": 0.0} if name == "ivon" else {}  # a prior draws weights to zero, as decay does
    optimizer = RECIPES[name](net, **flat)
    weights = [weight.detach().clone() for weight in net.parameters()]
    fill_gradients(net, 0, scale=0.0)
    optimizer.step()
    decays = any(group["weight_decay"] for group in optimizer.param_groups)
    projects = any(row.manifold != "Euclidean()" for row in optimizer.plan.rows)
    for now, then in zip(net.parameters(), weights, strict=True):
        assert now.isfinite().all()
        if not decays:  # a projection may round the last digit of a weight that it leaves in place
            torch.testing.assert_close(now.detach(), then, rtol=0, atol=1e-6 * projects)


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
    assert "direction = polar(active)" in plan.programs()
    with pytest.raises(KeyError, match="no weight is named 'x'"):
        plan["x"]


def values(net: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in net.parameters()]


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


def test_weights_in_half_precision_stay_so_and_have_state_in_float32() -> None:
    net = nn.Linear(4, 4, bias=False).bfloat16()
    optimizer = modula.recipes.muon(net)
    assert optimizer.state[net.weight]["momentum"].dtype is torch.float32
    net.weight.grad = torch.randn(4, 4).bfloat16()
    optimizer.step()
    assert net.weight.dtype is torch.bfloat16
