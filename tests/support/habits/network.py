"""A small network of every role, and the training loop of a person with any recipe."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import modula
from modula.duality.program.names import MICROBATCHES, SAMPLED, SAMPLED_MICROBATCHES
from modula.recipes import RECIPES
from modula.recipes.options import OPTIONS
from modula.statistics import sampled_labels

WORDS, CLASSES = 7, 3
MICROBATCHED = (MICROBATCHES, SAMPLED_MICROBATCHES)  # which need a loop of one's own
BALLS = ("scion", "automatic")  # their weight decay is the radius of a ball, and no option


class Net(nn.Module):
    """Classes of words: an embedding, a hidden matrix with a bias, gains and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.default_generator.manual_seed(0)
        self.words = nn.Embedding(WORDS, 4)
        self.inner = nn.Linear(4, 6)
        self.gain = nn.RMSNorm(6)
        self.head = nn.Linear(6, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gain(self.inner(self.words(x)).tanh()))


def batch(seed: int, count: int = 16) -> tuple[Tensor, Tensor]:
    """Words, and their classes; word 0 is in even batches only."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(seed % 2, WORDS, (count,), generator=generator)
    return x, x % CLASSES


class User:
    """A network, an optimizer made by a recipe, and a training loop with all that it may ask for.

    loss  of logits and labels
    """

    def __init__(self, recipe: str, net: nn.Module | None = None, **options: Any) -> None:
        self.recipe, self.options = recipe, options
        self.net = Net() if net is None else net
        self.optimizer = RECIPES[recipe](self.net, **options)
        self.loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def backward(self, seed: int, scale: float = 1.0, parts: int = 0) -> None:
        """Passes of the microbatches of a step, the losses times `scale`.

        parts  number of microbatches; 0 for as many as the optimizer needs
        """
        parts = parts or (2 if self.optimizer.asks_for(*MICROBATCHED) else 1)
        torch.default_generator.manual_seed(seed)  # labels are drawn, and noises
        self.optimizer.zero_grad()
        pairs = list(zip(*(each.chunk(parts) for each in batch(seed)), strict=True))
        with self.optimizer.perturbed():
            for x, y in pairs:
                (scale / parts * self.loss(self.net(x), y)).backward()
        if self.optimizer.asks_for(*SAMPLED):
            with self.optimizer.sampled():
                for x, _ in pairs:
                    logits = self.net(x)
                    labels = sampled_labels(logits.float())
                    (scale / parts * F.cross_entropy(logits, labels)).backward()

    def step(self, seed: int, scale: float = 1.0) -> User:
        self.backward(seed, scale)
        self.optimizer.step()
        return self

    def steps(self, *seeds: int) -> User:
        for seed in seeds:
            self.step(seed)
        return self

    def weights(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self.net.named_parameters()}

    def state(self) -> dict[str, Tensor]:
        return {
            f"{key} of {name}": value.detach().clone()
            for name, weight in self.net.named_parameters()
            for key, value in self.optimizer.state.get(weight, {}).items()
        }

    def everything(self) -> dict[str, Tensor]:
        """Copies of weights and state, by name."""
        return {**self.weights(), **self.state()}

    def potential(self, name: str) -> str:
        """The kind of potential of a weight: Unit, Sharp, ..."""
        return self.optimizer.plan[name].potential.partition("(")[0] or "Unit"

    def loss_now(self) -> float:
        """Over all words."""
        x = torch.arange(WORDS)
        with torch.no_grad():
            return F.cross_entropy(self.net(x).float(), x % CLASSES).item()

    def twin(self) -> User:
        """The same at this moment, to go another way: resumed from what this one would save."""
        net = copy.deepcopy(self.net)
        other = User(self.recipe, net, **self.options)
        net.load_state_dict(self.net.state_dict())
        other.optimizer.load_state_dict(self.optimizer.state_dict())
        return other


def flat(recipe: str) -> dict[str, Any]:
    """Options without weight decay and prior, where a recipe has them."""
    known = {"weight_decay": 0.0, "prior": 0.0}
    return {key: value for key, value in known.items() if key in OPTIONS[recipe]}


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Bit by bit."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert_close(value, other[name], rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")


def assert_near(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], rtol: float = 1e-3, atol: float = 1e-5
) -> None:
    """Up to rounding."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert_close(value, other[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def assert_finite(user: User) -> None:
    """Weights and state."""
    for name, value in user.everything().items():
        assert value.isfinite().all(), f"{name} is not finite"


def moved(user: User, before: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest change of an entry since then, by weight."""
    after = user.weights()
    return {name: (after[name] - x).abs().max().item() for name, x in before.items() if x.numel()}


def bare(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> nn.Module:
    """A network of one parameter of one's own."""
    return modula.declare(Bare(shape, dtype), {"own": modula.norms.RMS(len(shape))})


class Bare(nn.Module):
    """A parameter, and a linear layer that it scales."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        torch.default_generator.manual_seed(0)
        self.own = nn.Parameter(torch.randn(shape, dtype=dtype))
        self.head = nn.Linear(4, CLASSES, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        rows = F.one_hot(x % 4, 4).to(self.own.dtype)
        return self.head(rows) + self.own.sum() * torch.arange(CLASSES)


@contextmanager
def logged() -> Iterator[list[str]]:
    """Warnings of modula inside."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Kept(logging.WARNING)
    logging.getLogger("modula").addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger("modula").removeHandler(handler)
