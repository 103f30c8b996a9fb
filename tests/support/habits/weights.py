"""Habits about weights: of any shape and precision, frozen, tied, replaced."""

from __future__ import annotations

import torch
from torch import nn

from habits.network import (
    Net,
    User,
    assert_finite,
    assert_same,
    bare,
    logged,
    moved,
)
from habits.table import Outcome, always_refused, habit, refused
from modula.recipes import RECIPES

PART = "Weights"
UNSEEN = "of own cannot be seen"  # by metrics that read layers


def learns(user: User, *names: str) -> None:
    """Three steps, in which these weights move and all is finite."""
    before = user.weights()
    user.steps(0, 1, 2)
    assert_finite(user)
    far = moved(user, before)
    assert all(far[name] > 0 for name in names), far


@habit(PART, "have a parameter of 0 dims, a number", "It is trained.")
def number(recipe: str) -> Outcome:
    learns(User(recipe, bare(())), "own")
    return None


@habit(PART, "have weights of one entry, (1,) and (1, 1)", "They are trained.")
def one_entry(recipe: str) -> Outcome:
    found = None
    for shape in ((1,), (1, 1)):
        made: list[User] = []
        found = found or refused(lambda s=shape, m=made: m.append(User(recipe, bare(s))), UNSEEN)
        for user in made:
            user.steps(0, 1, 2)
            assert_finite(user)
            # a sphere of one entry is two points, between which there is no way
            is_point = "Euclidean" not in user.optimizer.plan["own"].manifold
            assert is_point or user.net.own.ne(bare(shape).own).any()
    return found


@habit(
    PART,
    "have a weight with a dimension of size 0",
    "The others are trained, and nothing is NaN; or the weight is refused, by name, when the "
    "optimizer is made.",
)
def size_zero(recipe: str) -> Outcome:
    found = None
    for shape in ((0,), (4, 0), (0, 3), (2, 0, 3)):
        net = bare(shape)
        made: list[User] = []
        sentence = refused(lambda net=net, made=made: made.append(User(recipe, net)), "own")
        found = found or sentence
        if made:
            learns(made[0], "head.weight")
    return found


@habit(
    PART,
    "begin with weights that are all zero",
    "They move with the first gradient; a manifold that does not contain zero projects and logs "
    "them, or refuses them when the optimizer is made.",
)
def zeros(recipe: str) -> Outcome:
    found = None
    for name in ("words.weight", "inner.weight", "inner.bias", "head.weight"):
        net = Net()
        nn.init.zeros_(net.get_parameter(name))
        made: list[User] = []
        with logged() as lines:
            sentence = refused(lambda net=net, made=made: made.append(User(recipe, net)), name)
        if sentence is not None:
            found = found or sentence
            continue
        (user,) = made
        is_projected = any(name in line for line in lines)
        assert is_projected or not net.get_parameter(name).any(), f"{name} was projected in silence"
        before = user.weights()
        user.steps(0, 1)
        assert_finite(user)
        assert moved(user, before)[name] > 0, f"{name} stays"
    return found


@habit(
    PART,
    "keep weights in bfloat16, float16 or float64",
    "They stay in it, state is in float32 or finer, and steps go where those of float32 go.",
)
def precisions(recipe: str) -> Outcome:
    single = User(recipe)
    start = single.weights()
    expected = single.step(0).weights()
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        user = User(recipe, Net().to(dtype)).step(0)
        assert_finite(user)
        assert all(weight.dtype is dtype for weight in user.net.parameters())
        assert all(value.dtype.itemsize >= 4 for value in user.state().values())
        for name, weight in user.weights().items():
            step, own = expected[name] - start[name], weight.float() - start[name]
            rounding = torch.finfo(dtype).eps * start[name].norm()
            # The head's gradient has one singular value that is rounding, and a direction with it.
            assert (own * step).sum() >= (0.3 * step.norm() - rounding) * step.norm(), name
            assert own.norm() <= 1.5 * step.norm() + rounding, name
    return None


@habit(PART, "have complex weights", "They are refused, by name, when the optimizer is made.")
def complex_weights(recipe: str) -> Outcome:
    net = nn.Linear(3, 4, bias=False)
    net.weight = nn.Parameter(torch.zeros(4, 3, dtype=torch.complex64))
    return always_refused(lambda: RECIPES[recipe](net), "weight.*complex")


@habit(
    PART,
    "freeze weights before the optimizer is made",
    "They are left out: not in `param_groups`, not in the plan, never moved.",
)
def frozen(recipe: str) -> Outcome:
    net = Net()
    net.inner.requires_grad_(False)
    user = User(recipe, net)
    before = user.weights()
    learns(user, "words.weight", "head.weight")
    assert torch.equal(net.inner.weight, before["inner.weight"])
    assert not any(row.name.startswith("inner") for row in user.optimizer.plan.rows)
    return None


@habit(
    PART,
    "freeze a weight in the middle of training",
    "It stays where it is, with its state, from then on.",
)
def frozen_later(recipe: str) -> Outcome:
    user = User(recipe).steps(0, 1)
    user.optimizer.zero_grad()
    user.net.inner.requires_grad_(False)
    before = user.everything()
    user.steps(2, 3)
    after = user.everything()
    still = [key for key in before if ".".join(key.split(" ")[-1:]).startswith("inner.")]
    assert_same({k: after[k] for k in still}, {k: before[k] for k in still})
    return None


@habit(
    PART,
    "unfreeze weights after the optimizer was made",
    "The first step with a gradient for them names them, and says `add_param_group`.",
)
def unfrozen_later(recipe: str) -> Outcome:
    net = Net()
    net.inner.requires_grad_(False)
    user = User(recipe, net).step(0)
    net.inner.requires_grad_(True)
    return told_once(user, "inner.weight")


@habit(
    PART,
    "assign a new Parameter to a layer (`load_state_dict(assign=True)`, adapters, parametrize)",
    "The first step after it names the weight, and says how to hand it over.",
)
def assigned(recipe: str) -> Outcome:
    user = User(recipe).steps(0, 1)
    state = {name: weight.clone() for name, weight in user.net.state_dict().items()}
    user.net.load_state_dict(state, assign=True)
    return told_once(user, "inner.weight")


@habit(
    PART,
    "remove a layer from the network",
    "The first step after it names the weight that is gone.",
)
def removed(recipe: str) -> Outcome:
    user = User(recipe).steps(0, 1)
    user.net.gain = nn.Identity()
    return told_once(user, "gain.weight")


def told_once(user: User, name: str) -> Outcome:
    """The sentence, logged once or raised, that names a weight which only one side has."""
    with logged() as lines:
        sentence = refused(lambda: user.step(2), name)
        if sentence is not None:
            return sentence
        found = [line for line in lines if name in line]
        assert len(found) == 1, f"nothing was said of {name}: {lines}"
        user.step(3)
        assert len([line for line in lines if name in line]) == 1, "said twice"
    assert_finite(user)
    return None


@habit(
    PART,
    "replace a Parameter: `optimizer.replace(old, new)`",
    "The new one is trained from its own values, with the name and the declaration of the old one.",
)
def replaced(recipe: str) -> Outcome:
    user = User(recipe).steps(0, 1)
    old = user.net.head.weight
    user.net.head.weight = nn.Parameter(old.detach().clone())
    user.optimizer.replace(old, user.net.head.weight)
    before = user.weights()
    user.step(2)
    assert moved(user, before)["head.weight"] > 0
    assert any(user.net.head.weight is w for g in user.optimizer.param_groups for w in g["params"])
    assert_finite(user)
    return None


@habit(
    PART,
    'put another Parameter into `param_groups[i]["params"]`',
    "The next step refuses, with `optimizer.replace(old, new)` in the sentence; nothing changes.",
)
def put_into_groups(recipe: str) -> Outcome:
    user = User(recipe).steps(0, 1)
    group = user.optimizer.param_groups[0]
    old = user.net.inner.weight
    place = next(i for i, each in enumerate(group["params"]) if each is old)
    group["params"][place] = nn.Parameter(old.detach().clone())
    before = user.weights()
    sentence = always_refused(lambda: user.step(2), r"replace\(")
    assert_same(user.weights(), before)
    return sentence


@habit(
    PART,
    "tie weights",
    "One weight, one row of the plan, one step along the sum of its gradients.",
)
def tied(recipe: str) -> Outcome:
    class Tied(Net):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(3, 6)
            self.inner = nn.Linear(6, 6)
            self.head.weight = self.words.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x % 3)

    user = User(recipe, Tied())
    rows = [row for row in user.optimizer.plan.rows if row.name in ("words.weight", "head.weight")]
    assert [(row.name, row.role) for row in rows] == [("words.weight", "tied")]
    learns(user, "words.weight")
    assert user.net.head.weight is user.net.words.weight
    return None


@habit(
    PART,
    "have a weight that no layer type covers, and declare nothing",
    "It is refused, by name, when the optimizer is made.",
)
def undeclared(recipe: str) -> Outcome:
    net = Net()
    net.own = nn.Parameter(torch.ones(3, 3))
    return always_refused(lambda: RECIPES[recipe](net), "no geometry is declared for own")


@habit(
    PART,
    "give `model.parameters()` in the place of the model",
    "It is refused: roles and names are read from the network.",
)
def parameters(recipe: str) -> Outcome:
    sentence = always_refused(
        lambda: RECIPES[recipe](Net().parameters()), "needs the network itself"
    )
    return sentence.replace(f"recipes.{recipe}", "recipes.NAME").partition("; got")[0]
