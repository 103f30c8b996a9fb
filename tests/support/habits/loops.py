"""Habits of training loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR, AveragedModel
from torch.utils.checkpoint import checkpoint

from habits.network import (
    MICROBATCHED,
    Net,
    User,
    assert_finite,
    assert_near,
    assert_same,
    batch,
    flat,
    moved,
)
from habits.table import Outcome, habit, refused
from modula.duality.program.names import SAMPLED
from modula.recipes import RECIPES

PART = "Training loops"

Scheduler = Callable[[Any], Any]
SCHEDULERS: Mapping[str, Scheduler] = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda k: 1 - k / 10),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda k: 0.9),
    "StepLR": lambda o: schedulers.StepLR(o, 1),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [1, 2]),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, total_iters=2),
    "LinearLR": lambda o: schedulers.LinearLR(o),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 3),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 2),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=0),
    "SWALR": lambda o: SWALR(o, 0.01),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.001, 0.01, 2, cycle_momentum=False),
    "CyclicLR, momentum": lambda o: schedulers.CyclicLR(o, 0.001, 0.01, 2),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.01, total_steps=5, cycle_momentum=False),
    "OneCycleLR, momentum": lambda o: schedulers.OneCycleLR(o, 0.01, total_steps=5),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler([schedulers.ExponentialLR(o, 0.9)]),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o), schedulers.ExponentialLR(o, 0.9)], [2]
    ),
}


@habit(
    PART,
    f"use any of {len(SCHEDULERS)} schedulers of torch, OneCycleLR with its momentum among them",
    "Steps are as long as the scheduler says.",
)
def scheduled(recipe: str) -> Outcome:
    found, net = None, nn.Linear(3, 2)
    optimizer = RECIPES[recipe](net)
    rates = [group["lr"] for group in optimizer.param_groups]
    for name, make in SCHEDULERS.items():
        made: list[Any] = []
        found = found or refused(lambda m=made, make=make: m.append(make(optimizer)), "momentum")
        for scheduler in made:
            if not optimizer.asks_for(*MICROBATCHED):
                for weight in net.parameters():
                    weight.grad = torch.ones_like(weight)
                lr = optimizer.param_groups[0]["lr"]
                optimizer.step()
                if optimizer.length_rule is None:
                    assert abs(optimizer.last_lr - lr) <= 1e-6 * lr, name
                scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
        assert all(weight.isfinite().all() for weight in net.parameters()), name
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = group["initial_lr"] = rate
    return found


@habit(
    PART,
    "give `step` a closure",
    "It is called once, with gradients enabled; its loss is returned, and the step is as without.",
)
def closure(recipe: str) -> Outcome:
    user, other = User(recipe), User(recipe)
    calls = []

    def evaluate() -> Tensor:
        calls.append(1)
        user.backward(0)
        return torch.tensor(3.0)

    assert user.optimizer.step(evaluate) == 3.0
    assert len(calls) == 1
    assert_same(user.everything(), other.step(0).everything())
    return None


@habit(
    PART,
    "accumulate gradients over parts of a batch, the losses divided by their number",
    "The step is that of the whole batch; a metric that compares microbatches needs two.",
)
def accumulated(recipe: str) -> Outcome:
    whole, parts = User(recipe), User(recipe)
    whole.optimizer.zero_grad()
    torch.default_generator.manual_seed(0)
    whole.backward(0, parts=1)
    parts.backward(0, parts=4)
    sentence = refused(whole.optimizer.step, "compares microbatches")
    parts.optimizer.step()
    assert_finite(parts)
    drawn = parts.optimizer.asks_for(*SAMPLED) or "ivon" in recipe  # labels and noises: other ones
    if sentence is None and not drawn:
        assert_near(parts.weights(), whole.weights(), 1e-3, 2e-3)
    return sentence


@habit(
    PART,
    "use gradient checkpointing",
    "The step is as without.",
)
def checkpointed(recipe: str) -> Outcome:
    class Saving(Net):
        def forward(self, x: Tensor) -> Tensor:
            hidden = checkpoint(self.inner, self.words(x), use_reentrant=False)
            return self.head(self.gain(hidden.tanh()))

    user, other = User(recipe, Saving()), User(recipe)
    assert_near(user.steps(0, 1).weights(), other.steps(0, 1).weights(), 1e-4, 1e-5)
    return None


@habit(
    PART,
    "evaluate between two steps, under `no_grad` and `eval()`",
    "The run is as without.",
)
def evaluated(recipe: str) -> Outcome:
    user, other = User(recipe).step(0), User(recipe).step(0)
    user.net.eval()
    user.loss_now()
    user.net.train()
    assert_same(user.step(1).everything(), other.step(1).everything())
    return None


@habit(
    PART,
    "train two networks with two optimizers in turn (GAN, actor and critic)",
    "Each moves its own weights alone, as it would by itself.",
)
def two_in_turn(recipe: str) -> Outcome:
    one, two, alone = User(recipe), User(recipe), User(recipe)
    before = two.everything()
    one.step(0)
    assert_same(two.everything(), before)
    two.step(5)
    one.step(1)
    alone.steps(0, 1)
    assert_same(one.everything(), alone.everything())
    return None


@habit(
    PART,
    "use two optimizers for two parts of one network",
    "Each moves its own weights alone.",
)
def two_of_one_network(recipe: str) -> Outcome:
    net = Net()
    net.words.requires_grad_(False)
    first = RECIPES[recipe](net)
    net.requires_grad_(False)
    net.words.requires_grad_(True)
    second = RECIPES[recipe](net)
    net.requires_grad_(True)
    owned = [{id(w) for g in o.param_groups for w in g["params"]} for o in (first, second)]
    assert not owned[0] & owned[1]
    assert len(owned[0] | owned[1]) == len(list(net.parameters()))
    return None


@habit(
    PART,
    "scale the loss with a GradScaler",
    "The step is as without; one whose gradients overflow is left out, with nothing changed.",
)
def scaled(recipe: str) -> Outcome:
    user, other = User(recipe), User(recipe)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(()))  # makes the scale's tensor
    user.backward(0, scale=1024.0)
    scaler.step(user.optimizer)
    scaler.update()
    other.step(0)
    assert_near(user.weights(), other.weights(), 1e-3, 1e-5)
    before = user.everything()
    user.backward(1, scale=1024.0)
    user.net.head.weight.grad[0, 0] = float("inf")
    scaler.step(user.optimizer)
    scaler.update()
    assert_same(user.everything(), before)
    assert scaler.get_scale() == 512.0
    return None


@habit(
    PART,
    "call `scaler.unscale_(optimizer)` to clip, then `scaler.step`",
    "The step is as without a scaler: the scale is found where a metric reads more than gradients.",
)
def unscaled(recipe: str) -> Outcome:
    user, other = User(recipe), User(recipe)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(()))
    user.backward(0, scale=1024.0)
    scaler.unscale_(user.optimizer)
    sentence = refused(lambda: scaler.step(user.optimizer), "loss_scale")
    if sentence is None:
        assert_near(user.weights(), other.step(0).weights(), 1e-3, 1e-5)
    return sentence


@habit(
    PART,
    "average weights (`AveragedModel`)",
    "The average is a copy with hooks of its own or none; the run is as without.",
)
def averaged(recipe: str) -> Outcome:
    user, other = User(recipe), User(recipe)
    average = AveragedModel(user.net)
    for seed in range(2):
        user.step(seed), other.step(seed)
        average.update_parameters(user.net)
        average(torch.arange(3))
    assert_same(user.everything(), other.everything())
    return None


@habit(
    PART,
    "meet any error in the middle of a step (a hook, a kernel, out of memory)",
    "It is raised as it is; weights and state are what they were before the step, or a note of the "
    "error says that they are not.",
)
def error_inside(recipe: str) -> Outcome:
    user, found = User(recipe).steps(0, 1), None
    batches = user.optimizer._own.batches._batches
    for each in (batches[0], batches[-1]):
        for lines, place in ((each.batch._proposal, 0), (each.batch._update, -1)):
            if lines:
                whole = lines[place]
                lines[place] = whole._replace(call=_raise(whole.call))
                user.backward(2)
                before = user.everything()
                with pytest.raises(RuntimeError, match="thrown") as error:
                    user.optimizer.step()
                lines[place] = whole
                notes = getattr(error.value, "__notes__", [])
                found = found or next(iter(notes), None)
                if not notes:
                    assert_same(user.everything(), before)
    user.step(3)
    assert_finite(user)
    return found


def _raise(call: Callable[..., Any]) -> Callable[..., Any]:
    def raising(*inputs: Any, **options: Any) -> Any:
        call(*inputs, **options)
        raise RuntimeError("thrown")

    return raising


@habit(
    PART,
    "hook a step (`register_step_pre_hook`, `register_step_post_hook`)",
    "Both are called once a step.",
)
def hooked(recipe: str) -> Outcome:
    user = User(recipe)
    calls: list[str] = []
    user.optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    user.optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    user.steps(0, 1)
    assert calls == ["before", "after"] * 2
    return None


@habit(
    PART,
    "change the size of the batch from step to step",
    "Training goes on, and nothing is NaN.",
)
def batch_sizes(recipe: str) -> Outcome:
    user = User(recipe, **flat(recipe))
    before = user.weights()
    for count in (2, 16, 3):
        user.optimizer.zero_grad()
        with user.optimizer.perturbed():
            for x, y in zip(*(each.chunk(2) for each in batch(count, count)), strict=True):
                (F.cross_entropy(user.net(x), y) / 2).backward()
        user.optimizer.step()
    assert_finite(user)
    assert all(far > 0 for far in moved(user, before).values())
    return None
