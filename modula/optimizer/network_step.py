"""One step of the whole network: all batches of weights, and the numbers that they wait for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modula.duality import Batch, Program, batches
from modula.duality.program.undo import Undo
from modula.optimizer.certification import Certification
from modula.optimizer.network_wide import LENGTH, LengthRule, network_numbers
from modula.optimizer.param_groups import DeclaredWeight
from modula.optimizer.public_state import Held
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

    def put(self, group: int, weights: Sequence[DeclaredWeight], programs: list[Program]) -> None:
        """Put the weights of a param group, which stands at this index, under these programs.

        A batch of weights that were together before, under other programs, goes on with its state.
        """
        tensors = [each.weight for each in weights]
        before = [batch for index, batch, _ in self._batches if index == group]
        self._batches = [each for each in self._batches if each.group != group]
        added = [
            GroupBatch(group, batch, [weights[i] for i in positions])
            for batch, positions in batches(programs, tensors, self._state_dtype, before)
        ]
        self._batches = sorted([*self._batches, *added], key=lambda each: each.group)
        self._numbers = network_numbers(self._length_rule, [b for _, b, _ in self._batches])
        self.reads_statistics |= any(program.statistics for program in programs)

    def held(self) -> list[Held]:
        """Each weight, and where its state is."""
        return [
            Held(each, batch, index)
            for _, batch, weights in self._batches
            for index, each in enumerate(weights)
        ]

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

        An error, whatever raises it, leaves weights and state as they were, bit by bit.
        """
        options = {id(each): param_groups[each.group] for each in self._batches}
        numbers: dict[str, Tensor] = {}

        def propose(each: GroupBatch, undo: Undo) -> None:
            self._propose(each, options[id(each)], gradients, statistics, undo)

        def advance(each: GroupBatch, undo: Undo) -> None:
            # A number of the whole network waits for every direction; without one, a batch moves
            # at once, while its direction is still in the cache and before the next one's exists.
            if not self._numbers:
                propose(each, undo)
            _move(each.batch, options[id(each)], numbers, undo)

        with self._undone_on_error() as undo:
            # What can fail comes first: only what was written to until then has to be copied.
            fragile, sound = self._by_risk()
            if not fragile:
                undo.give_up()
            if self._numbers:
                for each in self._batches:
                    propose(each, undo)
                pairs = [(each.batch, options[id(each)]) for each in self._batches]
                numbers |= {each.name: each.measure(pairs) for each in self._numbers}
            for each in fragile:
                advance(each, undo)
            if self._certification is not None:
                self._certification.end_step()
            length = numbers.get(LENGTH, 1.0) * param_groups[0]["lr"]
            undo.give_up()
            for each in sound:
                advance(each, undo)
        return torch.as_tensor(length, dtype=torch.float64)

    def _by_risk(self) -> tuple[list[GroupBatch], list[GroupBatch]]:
        """The batches that may raise an error in this step, and those that nothing but a lack of
        memory stops.
        """
        certified = self._certification is not None and self._certification.is_due
        fragile, sound = list[GroupBatch](), list[GroupBatch]()
        for each in self._batches:
            (fragile if certified or each.batch.can_fail else sound).append(each)
        return fragile, sound

    @contextmanager
    def _undone_on_error(self) -> Iterator[Undo]:
        """Inside, an error brings back what the log knows, and the counts of certification."""
        undo, certification = Undo(), self._certification
        try:
            with certification.counted() if certification is not None else nullcontext():
                yield undo
        except BaseException as error:
            undo.undo_()
            for each in self._batches:
                each.batch.forget()
            if not undo.is_open:
                error.add_note(
                    "this came where nothing but memory can run out, when some weights had moved "
                    "already: load the last checkpoint"
                )
            raise

    def _propose(
        self,
        each: GroupBatch,
        options: Mapping[str, Any],
        gradients: Gradients,
        statistics: Statistics,
        undo: Undo,
    ) -> None:
        _, batch, weights = each
        own = [gradients.get(id(weight)) for weight in batch.weights]
        seen = [statistics.get(weight.name, {}) for weight in weights] if statistics else []
        certification, look = self._certification, None
        if certification is not None and certification.is_due:
            look = partial(certification.certify, batch, weights)
        batch.propose(own, options, seen, look, undo)


def _move(
    batch: Batch, options: Mapping[str, Any], numbers: Mapping[str, Tensor], undo: Undo
) -> None:
    device = batch.weights[0].device
    here = {name: number.to(device) for name, number in numbers.items()}
    lr = here.pop(LENGTH, 1.0) * options["lr"]
    if not isinstance(lr, Tensor):
        # float64, so that a rate is the same number for weights of every precision.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        lr = torch.full((), lr, dtype=dtype)
    batch.update(lr.to(device), options, here, undo)
