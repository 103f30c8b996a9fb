"""Numbers of the whole network, such as its dual norm, which are known before any weight moves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modula.duality import Batch, Clip, Potential, Setting, Sharp, ShortStep
from modula.duality.program.names import MEAN_SQUARE
from modula.optimizer.automatic import Automatic

LENGTH = "length"  # what all learning rates are multiplied by
LengthRule = Automatic | Clip | ShortStep


class NetworkNumber(ABC):
    """A number that every weight has a part in; no weight moves before it is known."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that lines read it by, or LENGTH."""

    @abstractmethod
    def part(self, batch: Batch, options: Mapping[str, Any]) -> Tensor:
        """The part of a batch, whose directions are known: a row a weight, or one in all."""

    @abstractmethod
    def value(self, parts: Tensor) -> Tensor:
        """The number, 0-d, for the parts of all batches, one below the other."""

    def shares(self, parts: Tensor) -> Tensor | None:
        """Per-weight multiplier of the direction; None means 1."""
        return None

    def measure(self, batches: Sequence[tuple[Batch, Mapping[str, Any]]]) -> Tensor:
        """The number, 0-d, for batches and their options; multiplies directions by their shares."""
        parts = [self.part(batch, options) for batch, options in batches]
        together = torch.cat([part.to(parts[0].device) for part in parts])
        shares = self.shares(together)
        if shares is not None:
            own = shares.split([len(part) for part in parts])
            for (batch, _), share in zip(batches, own, strict=True):
                batch.share_out(share.to(batch.weights[0].device))
        return self.value(together)


@dataclass(frozen=True)
class Length(NetworkNumber):
    """The length of the step in the modular norm, from the dual norm of the whole network."""

    rule: LengthRule

    @property
    def name(self) -> str:
        return LENGTH

    def part(self, batch: Batch, options: Mapping[str, Any]) -> Tensor:
        if isinstance(self.rule, ShortStep):
            return batch.frank_wolfe_gaps(options)
        # An average behind a metric may point against the newest gradient: no gain is no length.
        return batch.dual_norms().clamp(min=0)

    def value(self, parts: Tensor) -> Tensor:
        return self.rule.length(parts)

    def shares(self, parts: Tensor) -> Tensor | None:
        return self.rule.shares(parts) if isinstance(self.rule, Clip) else None


@dataclass(frozen=True)
class MeanSquare(NetworkNumber):
    """The mean of Adam's second moments, for the decays that are scheduled by it."""

    @property
    def name(self) -> str:
        return MEAN_SQUARE

    def part(self, batch: Batch, options: Mapping[str, Any]) -> Tensor:
        return batch.squares()

    def value(self, parts: Tensor) -> Tensor:
        sum_of_squares, number = parts.sum(0).unbind()
        return sum_of_squares / number.clamp(min=1)


def network_numbers(rule: LengthRule | None, batches: Sequence[Batch]) -> list[NetworkNumber]:
    """The numbers that the weights of these batches wait for; [] where they need not."""
    found: list[NetworkNumber] = [] if rule is None else [Length(rule)]
    if any(batch.asks_mean_square for batch in batches):
        found.append(MeanSquare())
    return found


def length_rule(lr: float | Automatic, potential: Potential) -> LengthRule | None:
    """The rule for the length of the step, from the dual norm of the network; None for lr alone."""
    clip = potential if isinstance(potential, Clip | ShortStep) else None
    if clip is not None and isinstance(lr, Automatic):
        raise ValueError(f"{lr} and {clip} both set the length of the step: choose one")
    return lr if isinstance(lr, Automatic) else clip


def check_length(rule: LengthRule | None, setting: Setting) -> None:
    """Raise ValueError if a weight's potential asks for another length of the network's step."""
    potential = setting.potential
    if isinstance(potential, Clip | ShortStep) and potential != rule:
        raise ValueError(
            f"{potential} sets the length of the whole network's step, for which the optimizer has "
            f"{rule or 'no such rule'}: give SteepestDescent potential={potential}"
        )
    # Under a metric a direction has a size of its own; without one, s would come in twice.
    if rule is not None and isinstance(potential, Sharp) and not setting.metric:
        raise ValueError(
            f"{rule} sets the length of the network's whole step, and {potential} makes directions "
            f"as long as gradients, which would count twice: declare the weight with Unit(), as "
            f"recipes.clipped does"
        )
