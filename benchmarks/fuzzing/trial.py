"""One case: a random optimizer takes random steps, and what must hold is looked at after each."""

from __future__ import annotations

import copy
import inspect
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor

from fuzzing.networks import KINDS, USUAL, Parts, network
from fuzzing.options import options
from modula import NonFiniteGradient, SteepestDescent
from modula.duality import NoRule, Unit
from modula.duality.program.names import SAMPLED
from modula.recipes import RECIPES

ROOT = inspect.getfile(SteepestDescent).partition("modula/optimizer")[0]
MOST_STEPS = 6
TOLD = (ValueError, NoRule, NonFiniteGradient)  # what the docstrings say is raised
TORN = "load the last checkpoint"  # what a note says of a step that could not be undone
SENTENCE = 1200  # characters that one may have


@dataclass
class Trial:
    """What came of a case.

    refused  the sentence with which the optimizer was refused, if it was
    steps    weights that were moved, over all steps
    wrong    what should not have happened, each with the habit before it
    """

    seed: int
    case: int
    recipe: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    steps: int = 0
    told: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        given = ", ".join(f"{key}={value}" for key, value in self.given.items())
        return f"case {self.case}: {self.recipe}({given}) of {self.shapes}"


class Raised(RuntimeError):
    """An error that is thrown into the middle of a step."""


def run(seed: int, case: int, recipe: str | None = None) -> Trial:
    """The case of this number, always the same one."""
    draw = Random(f"{seed} {case}")
    chosen = draw.choice([*RECIPES])
    trial = Trial(seed, case, recipe or chosen)
    model = network(draw)
    trial.given = options(draw, trial.recipe)
    trial.shapes = {
        name: f"{tuple(p.shape)} {str(p.dtype).removeprefix('torch.')}"
        for name, p in model.named_parameters()
    }
    before = [weight.detach().clone() for weight in model.parameters()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer = RECIPES[trial.recipe](model, **trial.given)
    except Exception as error:
        trial.refused = str(error)
        trial.wrong += _untold(error, "construction")
        if not _same(before, [*model.parameters()]):
            trial.wrong.append("construction: was refused, but weights were changed")
        return trial
    Run(trial, draw, model, optimizer).all()
    return trial


class Run:
    """The steps of one case."""

    def __init__(
        self, trial: Trial, draw: Random, model: Parts, optimizer: SteepestDescent
    ) -> None:
        self.trial, self.draw, self.model, self.optimizer = trial, draw, model, optimizer
        self.generator = torch.Generator().manual_seed(draw.getrandbits(32))
        self.met: set[int] = set()  # weights that had a gradient other than zero
        self.is_torn = False  # by an error where nothing but a lack of memory is expected

    def all(self) -> None:
        """Steps, and habits between them, until something is wrong."""
        for step in range(self.draw.randint(1, MOST_STEPS)):
            for habit in (self.between, self.step):
                name = f"step {step}"
                try:
                    habit(name)
                except Exception as error:
                    self.trial.wrong += _untold(error, f"{name}, {habit.__name__}", always=True)
                if self.trial.wrong or self.is_torn:
                    return

    # --- between steps --------------------------------------------------------------------------

    def between(self, name: str) -> None:
        """Mostly nothing."""
        habit = self.draw.choice((None,) * 6 + HABITS)
        if habit is not None:
            habit(self, f"{name}, {habit.__name__}")

    def resume(self, name: str) -> None:
        saved = copy.deepcopy(self.optimizer.state_dict())
        rows = copy.deepcopy(self.state())
        fresh = RECIPES[self.trial.recipe](self.model, **self.trial.given)
        fresh.load_state_dict(saved)
        self.optimizer = fresh
        if not _same(rows, self.state()):
            self.wrong(name, "state differs after a round trip")

    def deepcopy(self, name: str) -> None:
        rows = copy.deepcopy(self.state())
        self.model, self.optimizer = copy.deepcopy((self.model, self.optimizer))
        self.optimizer.watch(self.model)
        self.met = {*map(id, self.model.parameters())}  # ids are new
        if not _same(rows, self.state()):
            self.wrong(name, "state differs after a deepcopy")

    def new_rate(self, name: str) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] *= self.draw.choice((0.0, 0.1, 1.0, 2.0))

    def new_decay(self, name: str) -> None:
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.draw.choice((0.0, 0.1))

    def raised_inside(self, name: str) -> None:
        """An error in any line of the program, before or after it wrote."""
        self.gradients("normal")
        before = self.everything()
        with _one_line_raises(self.optimizer, self.draw) as thrown:
            try:
                self.optimizer.step()
            except (Raised, *TOLD) as error:
                self.is_torn = any(TORN in note for note in getattr(error, "__notes__", []))
        if thrown and not self.is_torn and not _same(before, self.everything()):
            self.wrong(name, f"an error in {thrown[0]} left weights or state changed")

    # --- a step ---------------------------------------------------------------------------------

    def gradients(self, *kinds: str) -> None:
        """Backward passes of two microbatches, and whatever else a metric may read."""
        chosen = {i: self.draw.choice(kinds) for i in range(len(self.model.parts))}
        self.optimizer.zero_grad()
        with self.optimizer.perturbed():
            self.backward(chosen, 2)
        if self.optimizer.asks_for(*SAMPLED):
            with self.optimizer.sampled():
                self.backward(chosen, 2)

    def backward(self, kinds: dict[int, str], microbatches: int) -> None:
        for _ in range(microbatches):
            total = self.model(kinds, self.generator) / microbatches
            if total.requires_grad:
                total.backward()

    def step(self, name: str) -> None:
        """One step; gradients of every kind, rarely such as are no numbers."""
        self.gradients(*(KINDS if self.draw.random() < 0.1 else USUAL))
        with_gradient = [w for w in self.weights() if w.grad is not None]
        finite = all(_entries(w.grad).isfinite().all() for w in with_gradient)
        before, rates = self.everything(), [g["lr"] for g in self.optimizer.param_groups]
        starts = [w.detach().clone() for w in self.weights()]
        still = self.shall_not_move()
        try:
            self.optimizer.step()
        except Exception as error:
            self.trial.told += 1
            self.trial.wrong += _untold(error, name)
            if isinstance(error, NonFiniteGradient) and finite:
                self.wrong(name, "said that a finite gradient is not finite")
            if not _same(before, self.everything()):
                self.wrong(name, f"{type(error).__name__} left weights or state changed")
            return
        if not finite and not _same(before, self.everything()):
            self.wrong(name, "a step was skipped, but something changed")
        self.trial.steps += len(with_gradient)
        for key, x in self.named():
            if not x.isfinite().all():
                self.wrong(name, f"{key} holds {x[~x.isfinite()].unique().tolist()[:3]}")
        for (key, weight), start in zip(self.model.named_parameters(), starts, strict=False):
            moved = not torch.equal(weight, start)
            if moved and not any(rates):
                self.wrong(name, f"{key} moved at lr = 0")
            elif moved and id(weight) in still:
                far = (weight - start).abs().max().item()
                self.wrong(name, f"{key} moved by {far:.2g}: {still[id(weight)]}")
        self.met |= {id(w) for w in with_gradient if _entries(w.grad).count_nonzero()}

    def shall_not_move(self) -> dict[int, str]:
        """Why weights shall stay in place in this step, by their id."""
        found = {id(w): "it is frozen" for w in self.weights() if not w.requires_grad}
        for group, weights in zip(
            self.optimizer.param_groups, self.optimizer._own.groups, strict=True
        ):
            for _, weight, declaration in weights:
                decays = declaration.weight_decay or group.get("weight_decay")
                if weight.grad is None:
                    found[id(weight)] = "it had no gradient"
                elif decays or self.trial.given.get("prior", 1e-4) and "ivon" in self.trial.recipe:
                    continue
                elif not _entries(weight.grad).count_nonzero():
                    if id(weight) not in self.met:
                        found[id(weight)] = "all its gradients were zero"
                    elif isinstance(declaration.setting.potential, Unit):
                        found[id(weight)] = "its gradient was zero, under Unit()"
        return found

    # --- what there is --------------------------------------------------------------------------

    def weights(self) -> list[Tensor]:
        return list(self.model.parameters())

    def state(self) -> list[Tensor]:
        return [x for w in self.weights() for x in self.optimizer.state.get(w, {}).values()]

    def everything(self) -> list[Tensor]:
        return [x.detach().clone() for x in (*self.weights(), *self.state())]

    def named(self) -> Iterator[tuple[str, Tensor]]:
        for name, weight in self.model.named_parameters():
            yield name, weight.detach()
            for key, value in self.optimizer.state.get(weight, {}).items():
                yield f"{key} of {name}", value

    def wrong(self, name: str, what: str) -> None:
        self.trial.wrong.append(f"{name}: {what}")


Habit = Callable[[Run, str], None]
HABITS: tuple[Habit, ...] = (
    Run.resume,
    Run.deepcopy,
    Run.new_rate,
    Run.new_decay,
    Run.raised_inside,
)


@contextmanager
def _one_line_raises(optimizer: SteepestDescent, draw: Random) -> Iterator[list[str]]:
    """Inside, a line of one batch's program raises, after its work or in place of it."""
    batch = draw.choice(optimizer._own.batches._batches).batch
    lines = draw.choice((batch._proposal, batch._update))
    thrown: list[str] = []
    if not lines:
        yield thrown
        return
    place, late = draw.randrange(len(lines)), draw.random() < 0.5
    whole = lines[place]

    def call(*inputs: Any, **given: Any) -> Any:
        if late:
            whole.call(*inputs, **given)
        thrown.append(f"{whole.line.result} = {whole.line.op.name}")
        raise Raised("thrown into the step")

    lines[place] = whole._replace(call=call)
    try:
        yield thrown
    finally:
        lines[place] = whole


def _untold(error: Exception, where: str, always: bool = False) -> list[str]:
    """What is wrong with an error: no docstring tells of it, or it is not one sentence of ours."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    at = f"{last.filename.removeprefix(ROOT)}:{last.lineno}"
    what = f"{where}: {type(error).__name__} at {at}: {str(error)[:300]}"
    is_ours = last.filename.startswith(ROOT) and "raise" in (last.line or "")
    text = str(error)
    is_sentence = text.strip() and len(text) < SENTENCE and "\n" not in text
    is_told = isinstance(error, TOLD) and is_ours and is_sentence
    return [what] if always or not is_told else []


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether all are bit by bit the same."""
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        for a, b in zip(one, other, strict=True)
    )


def _entries(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.coalesce().values() if gradient.is_sparse else gradient
