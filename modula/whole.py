"""Numbers of the whole network: sums over its weights, known between directions and steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from modula.automatic import Automatic
from modula.duality import Batch, Clip, Potential, ShortStep
from modula.duality.program import MEAN_SQUARE

LENGTH = "length"  # what all learning rates are multiplied by
LengthRule = Automatic | Clip | ShortStep


class Whole(ABC):
    """A number made of a sum over all weights; no weight moves before it is known."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that lines read it by, or LENGTH."""

    @abstractmethod
    def part(self, batch: Batch, live: Mapping[str, Any]) -> Tensor:
        """What one batch, whose directions are known, adds to the sum."""

    @abstractmethod
    def value(self, total: Tensor) -> Tensor:
        """The number, 0-d, for the sum of all parts."""


@dataclass(frozen=True)
class Length(Whole):
    """The length of the step in the modular norm, from the dual norm of the whole network."""

    rule: LengthRule

    @property
    def name(self) -> str:
        return LENGTH

    def part(self, batch: Batch, live: Mapping[str, Any]) -> Tensor:
        if isinstance(self.rule, ShortStep):
            return batch.frank_wolfe_gap(live)
        return batch.dual_norm()

    def value(self, total: Tensor) -> Tensor:
        return self.rule.length(total)


@dataclass(frozen=True)
class MeanSquare(Whole):
    """The mean of Adam's second moments, for the decays that are scheduled by it."""

    @property
    def name(self) -> str:
        return MEAN_SQUARE

    def part(self, batch: Batch, live: Mapping[str, Any]) -> Tensor:
        return batch.squares()

    def value(self, total: Tensor) -> Tensor:
        sum_of_squares, number = total.unbind()
        return sum_of_squares / number.clamp(min=1)


def length_rule(lr: float | Automatic, potential: Potential) -> LengthRule | None:
    """What measures the step by the dual norm of the whole network, if anything does."""
    clip = potential if isinstance(potential, Clip | ShortStep) else None
    if clip is not None and isinstance(lr, Automatic):
        raise ValueError(f"{lr} and {clip} both set the length of the step: choose one")
    return lr if isinstance(lr, Automatic) else clip


def check_length(rule: LengthRule | None, potential: Potential) -> None:
    """Raise ValueError if a weight's potential asks for another length of the network's step."""
    if isinstance(potential, Clip | ShortStep) and potential != rule:
        raise ValueError(
            f"{potential} sets the length of the whole network's step, for which the optimizer has "
            f"{rule or 'no such rule'}: give SteepestDescent potential={potential}"
        )
