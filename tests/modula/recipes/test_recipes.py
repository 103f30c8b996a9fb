"""What every recipe does: it learns, is known by its published name, refuses bad options."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import modula
from modula.recipes import RECIPES
from plain_loops import hidden


def backward(loss: Tensor) -> float:
    loss.backward()
    return loss.item()


@pytest.mark.parametrize("name", [*RECIPES])
def test_every_recipe_learns_on_a_plain_and_on_a_normed_network(name: str) -> None:
    for net in (
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)),
        modula.Linear(4, 16) @ modula.ReLU() @ modula.Linear(16, 8),
    ):
        torch.manual_seed(0)
        for weight in net.parameters():
            nn.init.normal_(weight, std=0.3)
        x = torch.randn(64, 8)
        target = x[:, :4].tanh()
        optimizer = RECIPES[name](net)
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            parts = list(zip(x.chunk(2), target.chunk(2), strict=True))
            found = [backward((net(x) - y).square().mean() / 2) for x, y in parts]
            optimizer.step()
            losses.append(sum(found))
        assert losses[-1] < losses[0]
        assert {row.name for row in optimizer.plan.rows} == dict(net.named_parameters()).keys()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda net: modula.recipes.muon(net, scale="rms_norm"), "scale is one of rms, original"),
        (lambda net: modula.recipes.muon(net, lr=-1), "lr must be zero or positive"),
        (lambda net: modula.recipes.adamw(net, weight_decay=-1), "weight_decay must be zero"),
        (lambda net: modula.recipes.sign(net, momentum=1.0), r"momentum coefficient .*\[0, 1\)"),
        (lambda net: modula.recipes.automatic(net, radius=0), "radius must be positive"),
        (lambda net: modula.recipes.scion(net, radius=-1), "radii must be positive"),
        (lambda net: modula.recipes.scion(net, lr=1.5), "lr=1.5 would leave the balls"),
        (
            lambda net: modula.recipes.adamw(net, betas=(0.9, 1.0)),
            r"second of Adam's betas .*\[0, 1\)",
        ),
        (lambda net: modula.SteepestDescent(net, on_nonfinite="ignore"), '"raise" or "skip"'),
        (lambda net: modula.Automatic(gain=0), "positive gain"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(
    make: Callable[[nn.Module], Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as error:
        make(nn.Linear(3, 3))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "known_as"),
    [
        ("adam", {}, "Adam"),
        ("adamw", {}, "AdamW"),
        ("rmsprop", {}, "RMSProp"),
        ("adagrad", {}, "AdaGrad"),
        ("root_free", {}, "root-free RMSProp"),
        ("normuon", {}, "NorMuon"),
        ("adamuon", {}, "AdaMuon"),
        ("muon", {"scalers": (modula.duality.Hyperball(),)}, "MuonH"),
        ("kl_shampoo", {}, "KL-Shampoo"),
        ("shampoo", {}, "Shampoo, grafted to Adam"),
        ("shampoo_squared", {}, "Shampoo squared"),
        ("one_sided", {}, "one-sided Shampoo"),
        ("asgo", {}, "ASGO"),
    ],
)
def test_plans_know_the_published_name(name: str, options: dict[str, Any], known_as: str) -> None:
    optimizer = RECIPES[name](hidden(small()), **options)
    assert optimizer.plan["0.weight"].known_as == known_as


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))


def test_recipes_refuse_what_is_no_radius() -> None:
    with pytest.raises(ValueError, match="radii must be positive and finite"):
        modula.recipes.scion(nn.Linear(3, 3), radius=float("inf"))
