"""Habits about gradients: none, zero, tiny, huge, no number."""

from __future__ import annotations

import torch

from habits.network import (
    BALLS,
    User,
    assert_finite,
    assert_near,
    assert_same,
    flat,
    moved,
)
from habits.table import Outcome, always_refused, habit, refused
from modula import NonFiniteGradient

PART = "Gradients"
# Their steps are as long as gradients, or follow an average of them, in which an outlier stays.
WANT_CLIPPING = ("sgd", "ivon", "scion", "modular", "clipped")


def at_rest(user: User, name: str) -> bool:
    """Whether a zero gradient holds this weight still, bit by bit, whatever came before."""
    return user.potential(name) == "Unit" and user.recipe not in BALLS


@habit(
    PART,
    "have gradients that are exactly zero from the first step on",
    "No weight moves, bit by bit; weight decay, where there is any, goes on.",
)
def zero_from_the_start(recipe: str) -> Outcome:
    user = User(recipe, **flat(recipe))
    before = user.weights()
    for seed in range(3):
        user.step(seed, 0.0)
    if recipe == "scion":
        lr = user.optimizer.param_groups[0]["lr"]
        for row in user.optimizer.plan.rows:
            rate = lr * row.budget * user.optimizer.param_groups[0]["weight_decay"]
            before[row.name] *= (1 - rate) ** 3
        assert_near(user.weights(), before, rtol=1e-5, atol=1e-7)
    else:
        assert_same(user.weights(), before)
    assert_finite(user)
    return None


@habit(
    PART,
    "have gradients that become zero after real ones",
    "A weight of length 1 (`Unit()`: Muon, sign, Lion, Scion, modular, ...) stays in place at "
    "once; any "
    "other follows its average, which decays.",
)
def zero_after_real_ones(recipe: str) -> Outcome:
    user = User(recipe, **flat(recipe)).steps(0, 1, 2)
    start, sizes = user.weights(), user.state()
    lengths = []
    for seed in range(12):
        before = user.weights()
        user.step(seed, 0.0)
        lengths.append(moved(user, before))
    for name in lengths[0]:
        if at_rest(user, name):
            assert torch.equal(user.weights()[name], start[name]), f"{name} moved"
        elif recipe not in BALLS:
            first, last = lengths[0][name], lengths[-1][name]
            assert last <= 1.01 * first, f"{name}: {first} at first, {last} after 12 steps"
    for key, value in user.state().items():
        if key.startswith("momentum of"):
            assert value.norm() <= 0.95 * sizes[key].norm(), f"{key} does not decay"
    assert_finite(user)
    return None


@habit(
    PART,
    "have a row (a word, an expert, a dead unit) that gets no gradient any more",
    "A row that the norm measures by itself stays in place at once (with weight decay: decays); "
    "one under "
    "another norm follows its average, which decays.",
)
def a_row_without_gradient(recipe: str) -> Outcome:
    user = User(recipe, **flat(recipe)).step(0)
    row, weight = user.optimizer.plan["words.weight"], user.net.words.weight
    by_rows = "Rows" in row.norm or "Oblique" in row.manifold
    start, lengths = weight[0].detach().clone(), []
    for seed in range(1, 20, 2):  # odd batches have no word 0
        before = weight[0].detach().clone()
        user.step(seed)
        lengths.append((weight[0] - before).abs().max().item())
    if by_rows and recipe in BALLS:
        along = (weight[0] @ start / (start @ start)).item()
        assert 0 < along <= 1
        assert_near({"row 0": weight[0]}, {"row 0": along * start}, 1e-5, 1e-6)
    elif by_rows and user.potential("words.weight") in ("Unit", "Clip"):
        assert torch.equal(weight[0], start), f"row 0 moved by {max(lengths)}"
    elif user.potential("words.weight") == "Sharp":
        assert lengths[-1] <= lengths[0], f"row 0: {lengths[0]} at first, {lengths[-1]} later"
    return None


@habit(
    PART,
    "have no gradient (`None`) for some weights",
    "They and their state stay as they are, also without weight decay; the others step.",
)
def none_for_some(recipe: str) -> Outcome:
    user = User(recipe).steps(0, 1)
    user.backward(2)
    user.net.inner.weight.grad = None
    user.net.gain.weight.grad = None
    before = user.everything()
    user.optimizer.step()
    after = user.everything()
    still = [key for key in before if key.endswith(("inner.weight", "gain.weight"))]
    assert_same({key: after[key] for key in still}, {key: before[key] for key in still})
    assert not torch.equal(after["head.weight"], before["head.weight"])
    return None


@habit(
    PART,
    "step without any gradient",
    "Nothing changes, neither weights nor state, also with `state_dtype=torch.bfloat16`.",
)
def none_at_all(recipe: str) -> Outcome:
    for kept in (None, torch.bfloat16):
        user = User(recipe, state_dtype=kept).steps(0, 1)
        user.optimizer.zero_grad()
        before = user.everything()
        user.optimizer.step()
        assert_same(user.everything(), before)
        user.step(2)
        assert_finite(user)
    return None


@habit(
    PART,
    "have zero gradients first and real ones later",
    "Nothing is NaN, and all weights move within two real steps.",
)
def zero_first(recipe: str) -> Outcome:
    user = User(recipe, **flat(recipe))
    user.step(0, 0.0).step(1, 0.0)
    before = user.weights()
    user.steps(2, 3)  # a metric learns from a step for the next one
    assert_finite(user)
    assert all(far > 0 for far in moved(user, before).values())
    return None


@habit(
    PART,
    "feed the same batch for ever",
    "Nothing is NaN, and the loss falls.",
)
def constant(recipe: str) -> Outcome:
    user = User(recipe)
    first = user.loss_now()
    for _ in range(8):
        user.step(0)
    assert_finite(user)
    assert user.loss_now() < first, f"{first} became {user.loss_now()}"
    return None


@habit(
    PART,
    "meet one outlier batch, with gradients 1e4 times as large",
    "Training comes back: 15 steps later the loss is no higher than at first.",
)
def one_outlier(recipe: str) -> Outcome:
    def trained(clip: float) -> float:
        user = User(recipe)
        for seed in range(21):
            user.backward(seed, 1e4 if seed == 5 else 1.0)
            torch.nn.utils.clip_grad_norm_(user.net.parameters(), clip)
            user.optimizer.step()
        assert_finite(user)
        return user.loss_now()

    first = max(1.2, User(recipe).loss_now())
    loss = trained(float("inf"))
    if loss < first:
        return None
    assert recipe in WANT_CLIPPING, f"{first:.3g} became {loss:.3g}"
    assert trained(1.0) < first
    return "wants `clip_grad_norm_`, with which it comes back"


@habit(
    PART,
    "meet one batch with gradients of 1e30, whose squares overflow",
    "Weights and state stay finite; what averages squares leaves its weights out of the step and "
    "says so.",
)
def one_huge(recipe: str) -> Outcome:
    user = User(recipe).steps(0, 1)
    user.step(2, 1e30)
    assert_finite(user)
    # a weight of 1e30 makes logits that are no numbers
    sentence = refused(lambda: user.steps(3, 4), "is not finite", NonFiniteGradient)
    assert_finite(user)
    return sentence


@habit(
    PART,
    "have gradients of 1e-30",
    "Nothing is NaN and state stays finite; a weight of length 1 steps as under gradients of any "
    "scale.",
)
def tiny(recipe: str) -> Outcome:
    user, usual = User(recipe, **flat(recipe)), User(recipe, **flat(recipe))
    user.step(0, 1e-30), usual.step(0)
    assert_finite(user)
    names = [row.name for row in user.optimizer.plan.rows if at_rest(user, row.name)]
    if recipe not in ("soap_muon", "agd"):  # a metric's damping; a length from the dual norm
        own, other = user.weights(), usual.weights()
        assert_near({n: own[n] for n in names}, {n: other[n] for n in names}, 1e-2, 1e-3)
    return None


@habit(
    PART,
    "meet a NaN or an infinity in a gradient",
    '`NonFiniteGradient` names the weight before anything changes; with `on_nonfinite="skip"` '
    "the step is "
    "left out and counted in `optimizer.skipped`.",
)
def no_number(recipe: str) -> Outcome:
    sentence = ""
    for bad in (float("nan"), float("inf")):
        user, skipping = User(recipe).step(0), User(recipe, on_nonfinite="skip").step(0)
        for each in (user, skipping):
            each.backward(1)
            each.net.inner.weight.grad[0, 0] = bad
        before = user.everything()
        words = r"the gradient of inner\.weight is not finite"
        sentence = always_refused(user.optimizer.step, words, NonFiniteGradient)
        assert_same(user.everything(), before)
        before = skipping.everything()
        skipping.optimizer.step()
        assert_same(skipping.everything(), before)
        assert skipping.optimizer.skipped == 1
        skipping.step(2)
        assert_finite(skipping)
    return sentence


@habit(
    PART,
    "use `Embedding(sparse=True)`",
    "The step is that of a dense gradient.",
)
def sparse(recipe: str) -> Outcome:
    user, dense = User(recipe, **flat(recipe)), User(recipe, **flat(recipe))
    user.net.words.sparse = True
    user.step(0)
    dense.step(0)
    assert_near(user.weights(), dense.weights())
    return None


@habit(
    PART,
    "use `zero_grad(set_to_none=False)` and a batch that does not meet a weight",
    "The weight has a zero gradient, and does what it does under one.",
)
def zeroed_in_place(recipe: str) -> Outcome:
    user, other = User(recipe).step(0), User(recipe).step(0)
    user.backward(1)
    other.backward(1)
    for each in (user, other):
        each.net.inner.weight.grad.zero_()
    user.optimizer.zero_grad(set_to_none=False)
    assert all(not weight.grad.any() for weight in user.net.parameters())
    other.optimizer.step()
    assert_finite(other)
    return None


@habit(
    PART,
    "clip gradients with `clip_grad_norm_`",
    "The step is that of the clipped gradients; what a metric sees of layers and microbatches "
    "follows.",
)
def clipped(recipe: str) -> Outcome:
    user = User(recipe).step(0)
    other = user.twin()
    for each in (user, other):
        each.backward(1)
    length = torch.nn.utils.clip_grad_norm_(user.net.parameters(), 1e-2)
    for weight in other.net.parameters():
        weight.grad.mul_(1e-2 / (length + 1e-6))
    user.optimizer.step()
    other.optimizer.step()
    assert_near(user.weights(), other.weights())
    return None
