"""What an optimizer's metrics ask of the network besides its gradients, collected as it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn

from modula.duality.program import NOISE, SAMPLED_GRADIENT
from modula.statistics import Collector, Statistics, gradients_kept, perturbed

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

    def asks_for(self, statistic: str) -> bool:
        """Whether any weight wants this statistic."""
        return any(statistic in names for names in self.wanted.values())

    def take(self) -> Statistics:
        """All statistics by weight and name, and forget them."""
        found = self._collector.take() if self._collector else {}
        for name, statistics in self._given.items():
            found[name] = {**found.get(name, {}), **statistics}
        self._given = {}
        return found

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Gradients of backward passes inside are kept as "sampled_gradient", not as .grad."""
        paused = self._collector.paused() if self._collector else nullcontext()
        with gradients_kept(self._model), paused:
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
