"""Habits about param_groups: every key acts or is refused."""

from __future__ import annotations

import torch
from torch import nn

from habits.network import (
    BALLS,
    Net,
    User,
    assert_finite,
    assert_near,
    assert_same,
    flat,
    logged,
    moved,
)
from habits.table import Outcome, always_refused, habit, refused
from modula.duality import Declaration, Setting
from modula.norms import RMSToRMS

PART = "param_groups"
COUPLED = ("adam", "rmsprop", "adagrad", "root_free")  # they decay by way of the gradient


@habit(PART, "set `lr = 0`, at construction or later", "No weight moves, bit by bit.")
def no_rate(recipe: str) -> Outcome:
    user = User(recipe).steps(0, 1)
    for group in user.optimizer.param_groups:
        group["lr"] = 0.0
    before = user.weights()
    user.steps(2, 3)
    assert_same(user.weights(), before)
    assert_finite(user)
    return None


@habit(
    PART, "change `lr`, to a number or a tensor", "The next step is as long as the new one says."
)
def new_rate(recipe: str) -> Outcome:
    user = User(recipe).steps(0, 1)
    other, tensor = user.twin(), user.twin()
    start = user.weights()
    for group, same in zip(
        other.optimizer.param_groups, tensor.optimizer.param_groups, strict=True
    ):
        group["lr"] *= 0.5
        same["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    user.step(2), other.step(2), tensor.step(2)
    assert_near(tensor.weights(), other.weights(), 1e-6, 1e-7)
    for row in user.optimizer.plan.rows:
        if "Euclidean" not in row.manifold:
            continue
        one, two = (each.weights()[row.name] - start[row.name] for each in (user, other))
        assert (two - one / 2).norm() <= 1e-2 * one.norm() + 1e-6, row.name
    return None


@habit(PART, "set `weight_decay` where there was none", "It acts from the next step on.")
def decay_later(recipe: str) -> Outcome:
    user = User(recipe, **flat(recipe)).steps(0, 1)
    other, start = user.twin(), user.weights()
    for group in user.optimizer.param_groups:
        group["weight_decay"] = group.get("weight_decay", 0.0) + 0.5
    user.step(2), other.step(2)
    assert_finite(user)
    one, two = user.weights(), other.weights()
    for row in user.optimizer.plan.rows:
        if "Euclidean" in row.manifold and start[row.name].any():  # zero has nothing to lose
            difference = (one[row.name] - two[row.name]).norm().item()
            assert difference > 0, f"{row.name} does not decay"
    return None


@habit(
    PART,
    "set `betas`, `momentum` or `eps`",
    "It acts from the next step on, where a torch optimizer of that name has the key; or the "
    "next step "
    "refuses, with nothing changed.",
)
def new_momentum(recipe: str) -> Outcome:
    found = None
    for key, value in (("momentum", 0.5), ("betas", (0.5, 0.6)), ("eps", 0.1)):
        user = User(recipe).steps(0, 1, 2)
        other = user.twin()
        for group in user.optimizer.param_groups:
            group[key] = value
        before = user.everything()
        sentence = refused(lambda user=user: user.step(3), f"{key}")
        if sentence is None:
            other.step(3)
            one, two = user.everything(), other.everything()
            # A momentum may have begun, with state of its own.
            same = one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
            assert not same, f"{key} is ignored"
        else:
            assert_same(user.everything(), before)
            sentence = sentence.partition(" (known")[0].rstrip(":")
        found = found or sentence
    return found


@habit(
    PART,
    "set a key that nothing reads, or misspell one",
    "The next step refuses, with the nearest key; nothing changes.",
)
def unknown_key(recipe: str) -> Outcome:
    user = User(recipe).step(0)
    user.optimizer.param_groups[0]["weight_decya"] = 0.1
    before = user.everything()
    sentence = always_refused(lambda: user.step(1), "weight_decya.*weight_decay")
    assert_same(user.everything(), before)
    return sentence.partition(" (known")[0].rstrip(":")


@habit(
    PART,
    "`add_param_group` with a declaration a weight",
    "The new weights are trained, the old ones keep their state.",
)
def added(recipe: str) -> Outcome:
    net = Net()
    net.head.requires_grad_(False)
    user = User(recipe, net).steps(0, 1)
    before, start = user.everything(), user.weights()
    net.head.requires_grad_(True)
    user.optimizer.add_param_group(
        {
            "params": [("head.weight", net.head.weight)],
            "declarations": [Declaration(Setting(RMSToRMS()), "head")],
            "lr": 0.01,
        }
    )
    after = user.everything()
    assert_same({k: after[k] for k in before}, before)
    user.step(2)
    assert 0 < moved(user, start)["head.weight"] < 0.1
    assert_finite(user)
    return None


@habit(
    PART, "`add_param_group` as in torch, with weights alone", "It is refused: nothing is guessed."
)
def added_without(recipe: str) -> Outcome:
    user = User(recipe).step(0)
    extra = nn.Parameter(torch.ones(2, 2))
    return always_refused(
        lambda: user.optimizer.add_param_group({"params": [extra]}), "needs one declaration"
    )


@habit(
    PART,
    "set `maximize=True`",
    "The step is that of the negative loss.",
)
def maximized(recipe: str) -> Outcome:
    up, down = User(recipe, maximize=True), User(recipe)
    up.loss = lambda x, y: -nn.functional.cross_entropy(x, y)
    up.step(0), down.step(0)
    assert_near(up.weights(), down.weights(), 1e-4, 1e-5)
    return None


@habit(
    PART,
    "choose `lr` and `weight_decay` whose product is above 1",
    "A weight would jump over zero: it is logged once; nothing is NaN.",
)
def overshooting(recipe: str) -> Outcome:
    if recipe in BALLS:
        return None
    user = User(recipe)
    for group in user.optimizer.param_groups:
        group["lr"], group["weight_decay"] = 2.0, 1.0
    with logged() as lines:
        user.steps(0, 1)
    jumps = user.optimizer.length_rule is None and recipe not in COUPLED
    assert len([line for line in lines if "decay" in line]) == jumps, lines
    assert_finite(user)
    return None
