"""What an optimizer's metrics ask of the network besides its gradients, collected as it trains."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn

from modula.duality.program import (
    MICROBATCHES,
    NOISE,
    SAMPLED,
    SAMPLED_GRADIENT,
    SAMPLED_MICROBATCHES,
)
from modula.statistics import Collector, Statistics, gradients_kept, perturbed

logger = logging.getLogger(__name__)

GIVEN = (SAMPLED_GRADIENT, NOISE)  # by passes that the training loop makes; hooks see the rest


class Watch:
    """Statistics of the weights of a model, gathered between two steps.

    model   the network that the weights belong to
    wanted  names of statistics by full name of the weight
    """

    def __init__(self, model: nn.Module, wanted: Mapping[str, Sequence[str]]) -> None:
        self.wanted = {name: tuple(names) for name, names in wanted.items() if names}
        self._weights = dict(model.named_parameters())
        self._model = model
        hooked = {
            name: [each for each in names if each not in GIVEN]
            for name, names in self.wanted.items()
        }
        hooked = {name: names for name, names in hooked.items() if names}
        self._collector = Collector(model, hooked) if hooked else None
        self._given: Statistics = {}
        self._waits = self.asks_for(*SAMPLED)
        self._expected: Mapping[str, Sequence[str]] = self.wanted

    def asks_for(self, *statistics: str) -> bool:
        """Whether any weight wants one of these statistics."""
        return any(not {*statistics}.isdisjoint(names) for names in self.wanted.values())

    def expect(self, statistics: Mapping[str, Sequence[str]]) -> None:
        """Measure these until told otherwise, and no others."""
        self._expected = statistics
        if self._collector:
            self._collector.expect(statistics)

    def take(self) -> Statistics:
        """All statistics by weight and name, and forget them.

        Raises ValueError where microbatches are to be compared and there are not two.
        """
        found = self._collector.take() if self._collector else {}
        self._refuse_single(found)
        for name, statistics in self._given.items():
            found[name] = {**found.get(name, {}), **statistics}
        self._given = {}
        if self._waits:
            self._warn(found)
        return found

    def _refuse_single(self, found: Statistics) -> None:
        """A metric that asks how microbatches differ would otherwise leave its weight as it is."""
        for name, names in self._expected.items():
            for statistic in {MICROBATCHES, SAMPLED_MICROBATCHES}.intersection(names):
                parts = found.get(name, {}).get(statistic)
                trained = statistic == MICROBATCHES and self._weights[name].grad is not None
                if parts is None and trained or parts is not None and len(parts) < 2:
                    raise ValueError(_single(name, statistic, 0 if parts is None else 1))

    def _warn(self, found: Statistics) -> None:
        """Say once if the first step comes before any pass at sampled labels."""
        self._waits = False
        if not any(name in SAMPLED for statistics in found.values() for name in statistics):
            logger.warning(
                "a metric reads gradients at sampled labels and has none yet: until there is a "
                "backward pass inside optimizer.sampled() it measures nothing"
            )

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Backward passes inside feed the statistics called sampled_..., and leave .grad alone."""
        seen = self._collector.sampled() if self._collector else nullcontext()
        with gradients_kept(self._model), seen:
            yield
            self._give(
                SAMPLED_GRADIENT,
                {n: w.grad for n, w in self._weights.items() if w.grad is not None},
            )

    @contextmanager
    def perturbed(self, noises: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, each named weight is moved by its noise, which becomes its "noise"."""
        with perturbed([self._weights[name] for name in noises], noises.values()):
            yield
        self._give(NOISE, noises)

    def _give(self, statistic: str, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            if statistic in self.wanted.get(name, ()):
                self._given.setdefault(name, {})[statistic] = value


def _single(name: str, statistic: str, count: int) -> str:
    passes = "at sampled labels " if statistic == SAMPLED_MICROBATCHES else ""
    return (
        f"the metric of {name} compares microbatches, and this step had {count} {passes}for it: "
        "call the model and loss.backward() two times or more before a step, each time on an "
        "equal part of the batch, with the loss divided by their number"
    )
