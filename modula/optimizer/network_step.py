"""One step of the whole network: all batches of weights, and the numbers that they wait for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modula.duality import Batch, Program, batches
from modula.optimizer.certification import Certification
from modula.optimizer.network_wide import LENGTH, LengthRule, network_numbers
from modula.optimizer.param_groups import DeclaredWeight
from modula.statistics import Statistics

Gradients = Mapping[int, Tensor]  # by id of the weight


class GroupBatch(NamedTuple):
    """Weights of one param group that are advanced together.

    group  index of their row in param_groups
    """

    group: int
    batch: Batch
    weights: list[DeclaredWeight]


class WeightBatches:
    """All weights of an optimizer, in batches that are advanced together.

    What does not change from step to step is found when weights are added; options are read from
    param_groups in every step.

    length_rule    length of the step, from the dual norm of the network; None: lr alone says it
    state_dtype    dtype of weight-shaped state; None for the one it is computed in
    certification  certifies directions in the steps in which that is due; None never does
    """

    def __init__(
        self,
        length_rule: LengthRule | None,
        state_dtype: torch.dtype | None,
        certification: Certification | None,
    ) -> None:
        self.reads_statistics = False
        self._length_rule = length_rule
        self._state_dtype = state_dtype
        self._certification = certification
        self._batches: list[GroupBatch] = []
        self._numbers = network_numbers(length_rule, [])
        self._can_fail = False

    def add(self, group: int, weights: Sequence[DeclaredWeight], programs: list[Program]) -> None:
        """Add the weights of a param group, which stands at this index, with their programs."""
        tensors = [each.weight for each in weights]
        self._batches += [
            GroupBatch(group, batch, [weights[i] for i in positions])
            for batch, positions in batches(programs, tensors, self._state_dtype)
        ]
        self._numbers = network_numbers(self._length_rule, [b for _, b, _ in self._batches])
        self.reads_statistics |= any(program.statistics for program in programs)
        self._can_fail |= any(each.declaration.setting.manifold.can_fail for each in weights)

    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        """Views of each weight's state, by name."""
        return {
            each.weight: batch.state_of(index)
            for _, batch, weights in self._batches
            for index, each in enumerate(weights)
        }

    def statistics(self) -> dict[str, tuple[str, ...]]:
        """Names of the statistics that each weight's program reads, by full name of the weight."""
        return {
            each.name: batch.program.statistics
            for _, batch, weights in self._batches
            for each in weights
        }

    def next_statistics(self) -> dict[str, tuple[str, ...]]:
        """Those of them that the next step reads."""
        return {
            each.name: names
            for _, batch, weights in self._batches
            for each, names in zip(weights, batch.expects(), strict=True)
        }

    def noises(self, param_groups: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """What to move weights by before their gradients are taken, where a metric draws that."""
        return {
            each.name: noise
            for group, batch, weights in self._batches
            if batch.program.draw
            for each, noise in zip(weights, batch.draw(param_groups[group]), strict=True)
        }

    def step(
        self,
        param_groups: Sequence[Mapping[str, Any]],
        gradients: Gradients,
        statistics: Statistics,
    ) -> Tensor:
        """Move every weight that has a gradient; the length of the step in the network's norm.

        Raises ValueError, with weights and state as they were, where a manifold has no next point.
        """
        if self._certification is not None:
            self._certification.begin_step()
        with rolled_back_on_error(self._tensors()) if self._can_fail else nullcontext():
            # A number of the whole network waits for every direction; without one, a batch moves
            # at once, while its direction is still in the cache and before the next one's exists.
            if self._numbers:
                for each in self._batches:
                    self._propose(each, param_groups[each.group], gradients, statistics)
            pairs = [(batch, param_groups[group]) for group, batch, _ in self._batches]
            numbers = {each.name: each.measure(pairs) for each in self._numbers}
            for each in self._batches:
                if not self._numbers:
                    self._propose(each, param_groups[each.group], gradients, statistics)
                _move(each.batch, param_groups[each.group], numbers)
        if self._certification is not None:
            self._certification.end_step()
        length = numbers.get(LENGTH, 1.0) * param_groups[0]["lr"]
        return torch.as_tensor(length, dtype=torch.float64)

    def _propose(
        self,
        each: GroupBatch,
        options: Mapping[str, Any],
        gradients: Gradients,
        statistics: Statistics,
    ) -> None:
        _, batch, weights = each
        own = [gradients.get(id(weight)) for weight in batch.weights]
        seen = [statistics.get(weight.name, {}) for weight in weights] if statistics else []
        certification, look = self._certification, None
        if certification is not None and certification.is_due:
            look = partial(certification.certify, batch, weights)
        batch.propose(own, options, seen, look)

    def _tensors(self) -> list[Tensor]:
        """All weights and all of their state."""
        state = self.state()
        return [*state, *(x for own in state.values() for x in own.values())]


def _move(batch: Batch, options: Mapping[str, Any], numbers: Mapping[str, Tensor]) -> None:
    device = batch.weights[0].device
    here = {name: number.to(device) for name, number in numbers.items()}
    lr = here.pop(LENGTH, 1.0) * options["lr"]
    if not isinstance(lr, Tensor):
        # float64, so that a rate is the same number for weights of every precision.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        lr = torch.full((), lr, dtype=dtype)
    batch.update(lr.to(device), options, here)


@contextmanager
def rolled_back_on_error(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Inside, a ValueError brings all of these back to what they were."""
    before = [each.clone() for each in tensors]
    try:
        yield
    except ValueError:
        for each, old in zip(tensors, before, strict=True):
            each.copy_(old)
        raise
