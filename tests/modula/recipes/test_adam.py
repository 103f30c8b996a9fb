"""Adam and its kin against torch's and papers; what Adam is for: unlike blocks of curvature."""

from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_runs import Make, assert_same_run

import modula
from modula import recipes
from modula.duality import Decoupled
from plain_loops import EXACT, Loop

UNLIKE = [[1, 2, 3], [99, 100, 101], [4998, 4999, 5000]]  # each block has a curvature of its own
ALIKE = [[1, 99, 4998], [2, 100, 4999], [3, 101, 5000]]  # each block has all of them
GRIDS = {"sgd": (1e-5, 2e-5), "sign": (4e-3, 1e-2), "adam": (0.01, 0.1)}
OPTIONS = {"sgd": {"momentum": 0.95}, "sign": {}, "adam": {"betas": (0.95, 0.95)}}
STEPS, BATCH = 500, 3


def data(blocks: list[list[int]]) -> Tensor:
    turns = (torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0] for _ in blocks)
    roots = (torch.tensor(block, dtype=torch.float64).sqrt() for block in blocks)
    return torch.block_diag(*(q * root for q, root in zip(turns, roots, strict=True)))


def final_loss(name: str, lr: float, columns: Tensor) -> float:
    """|w X|^2 / 2 after 500 steps from w = (1, ..., 1), each seeing three of nine columns."""
    net = nn.Linear(9, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(net.weight)
    optimizer = recipes.RECIPES[name](net, lr, **OPTIONS[name])
    for k in range(STEPS):
        optimizer.param_groups[0]["lr"] = lr * min(20 * (k + 1) / STEPS, 1 - k / STEPS)
        some = columns[:, torch.randperm(9)[:BATCH]]
        net.weight.grad = net.weight.detach() @ some @ some.T * 9 / BATCH
        optimizer.step()
    return float((net.weight.detach() @ columns).square().sum() / 2)


def best(name: str, blocks: list[list[int]]) -> float:
    """The median of three seeds at the better rate of the grid."""
    losses = []
    for lr in GRIDS[name]:
        runs = []
        for seed in range(3):
            torch.manual_seed(seed)
            runs.append(final_loss(name, lr, data(blocks)))
        losses.append(median(runs))
    return min(losses)


@pytest.mark.parametrize("name", GRIDS)
def test_where_blocks_are_alike_no_optimizer_is_better(name: str) -> None:
    assert 1.0 < best(name, ALIKE) < 4.0


def test_where_blocks_are_unlike_adam_is_far_better() -> None:
    sgd, sign, adam = (best(name, UNLIKE) for name in GRIDS)
    assert 5 * adam < sign and 10 * sign < sgd


def test_adamw_is_torchs_adamw_for_1000_steps() -> None:
    assert_same_run(
        lambda net: modula.recipes.adamw(net, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1),
        lambda net: torch.optim.AdamW(
            net.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1
        ),
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize("name", ["adam", "rmsprop", "adagrad", "root_free"])
def test_a_decay_of_ones_own_takes_the_place_of_the_recipes(name: str) -> None:
    net = nn.Linear(3, 2)
    plain = recipes.RECIPES[name](net).plan["weight"].program
    decayed = recipes.RECIPES[name](net, weight_decay=Decoupled(0.1)).plan["weight"].program
    assert decayed.proposal == plain.proposal
    assert str(decayed.update[0]) == "weight = decay(weight, lr, rate=0.1, scale=1)"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            lambda net: recipes.adam(net, 3e-3, weight_decay=0.1),
            lambda net: torch.optim.Adam(net.parameters(), 3e-3, weight_decay=0.1),
        ),
        (
            lambda net: recipes.rmsprop(net, 3e-3),
            lambda net: torch.optim.RMSprop(net.parameters(), 3e-3),
        ),
        (
            lambda net: recipes.rmsprop(net, 1e-3, momentum=0.9, weight_decay=0.1),
            lambda net: torch.optim.RMSprop(net.parameters(), 1e-3, momentum=0.9, weight_decay=0.1),
        ),
        (
            lambda net: recipes.adagrad(net, 0.05, weight_decay=0.1),
            lambda net: torch.optim.Adagrad(net.parameters(), 0.05, weight_decay=0.1),
        ),
        (
            lambda net: recipes.adagrad(net, 0.05, first=0.1),
            lambda net: torch.optim.Adagrad(net.parameters(), 0.05, initial_accumulator_value=0.1),
        ),
    ],
    ids=["adam", "rmsprop", "rmsprop with momentum", "adagrad", "adagrad from 0.1"],
)
def test_recipes_are_torchs_for_300_steps(ours: Make, theirs: Make) -> None:
    assert_same_run(ours, theirs, steps=300, **EXACT)


def test_root_free_is_the_papers_loop() -> None:
    def direction(g: Tensor, state: dict[str, Any], step: int) -> Tensor:
        state["v"] = 0.95 * state.get("v", 1 / 16) + 0.05 * g**2
        decayed = g / (16 * state["v"] + 1e-3) + 0.1 * state["weight"]
        state["b"] = 0.9 * state.get("b", 0.0) + decayed
        return state["b"]

    assert_same_run(
        lambda net: recipes.root_free(net, 1e-3, batch=16, beta=0.95, weight_decay=0.1),
        lambda net: Loop(net, 1e-3, direction),
        steps=200,
        **EXACT,
    )


def test_adam_with_equal_betas_is_sign_descent_in_a_trust_region() -> None:
    """m / sqrt(v) = sign(m) / sqrt(1 + s / m^2), s: what the average failed to foresee."""

    def direction(g: Tensor, state: dict[str, Any], step: int) -> Tensor:
        m, s = state.get("m", torch.zeros_like(g)), state.get("s", 0.0)
        state["s"] = s = 0.9 * s + 0.9 * 0.1 * (m - g) ** 2
        state["m"] = m = 0.9 * m + 0.1 * g
        return m.sign() / (1 + s / m**2).sqrt() / (1 - 0.9**step) ** 0.5

    assert_same_run(
        lambda net: recipes.adam(net, 1e-3, betas=(0.9, 0.9), eps=0.0),
        lambda net: Loop(net, 1e-3, direction),
        steps=100,
        rtol=1e-7,
        atol=1e-10,
    )
