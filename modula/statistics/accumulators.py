"""Accumulators of layer statistics: sums over rows, until they are taken.

    expand    each position of each example is a row
    reduce    each example is a row: x averaged, dL/dy summed over the positions

They agree where there is one position.

Source: Eschenhagen et al. 2023, arXiv:2311.00636.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modula.duality.program import names


class Accumulator(ABC):
    """Base of accumulators: counts of rows and loss terms, and what is kept of the rows."""

    def __init__(self) -> None:
        self.rows = 0
        self.terms = 0

    def add_(self, rows: Tensor, terms: int) -> None:
        """Accumulate rows: (rows, features)."""
        self.rows += len(rows)
        self.terms += terms
        self._add_(rows)

    @abstractmethod
    def _add_(self, rows: Tensor) -> None: ...

    @abstractmethod
    def value(self, scale: Tensor | float, count: int) -> Tensor:
        """The accumulated value for rows times `scale`; sums are divided by `count`."""


class Moment(Accumulator):
    """sum of r r^T over the rows r, divided by their count: (features, features)."""

    def __init__(self) -> None:
        super().__init__()
        self._total: Tensor | None = None

    def _add_(self, rows: Tensor) -> None:
        product = rows.mT @ rows
        self._total = product if self._total is None else self._total.add_(product)

    def value(self, scale: Tensor | float, count: int) -> Tensor:
        assert self._total is not None
        return self._total * (scale**2 / count)


class Rows(Accumulator):
    """The rows themselves, in the order in which they came: (rows, features)."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[Tensor] = []

    def _add_(self, rows: Tensor) -> None:
        self._parts.append(rows.clone())  # x may be a buffer that the next batch is read into

    def value(self, scale: Tensor | float, count: int) -> Tensor:
        return torch.cat(self._parts) * scale


@dataclass(frozen=True)
class Statistic:
    """One statistic: which rows of a layer it sees, and the accumulator that keeps them."""

    share: Callable[[Tensor], Tensor]
    accumulator: type[Accumulator]


def expand(x: Tensor) -> Tensor:
    """(examples, positions, features) -> (examples * positions, features)"""
    return x.flatten(0, 1)


def average_positions(x: Tensor) -> Tensor:
    """(examples, positions, features) -> (examples, features)"""
    return x.mean(1)


def sum_positions(e: Tensor) -> Tensor:
    """(examples, positions, features) -> (examples, features)"""
    return e.sum(1)


INPUTS = {  # of x, what goes into the layer
    "input_moment": Statistic(expand, Moment),
    "layer_inputs": Statistic(expand, Rows),
    "reduced_input_moment": Statistic(average_positions, Moment),
    "reduced_layer_inputs": Statistic(average_positions, Rows),
}
OUTPUTS = {  # of e = terms * dL/dy, what comes back to its output
    "output_moment": Statistic(expand, Moment),
    "output_gradients": Statistic(expand, Rows),
    "reduced_output_moment": Statistic(sum_positions, Moment),
    "reduced_output_gradients": Statistic(sum_positions, Rows),
}
MICROBATCH_GRADIENTS = names.MICROBATCHES
GRADIENT_TIMES_NOISE = names.GRADIENT_TIMES_NOISE
SAMPLED = "sampled_"  # before a name: of the passes at sampled labels, and of no other
OF_MICROBATCHES = (MICROBATCH_GRADIENTS, names.SAMPLED_MICROBATCHES)
OF_WEIGHTS = (*OF_MICROBATCHES, GRADIENT_TIMES_NOISE)  # of the weight itself: any has them
FROM_LAYERS = {**INPUTS, **OUTPUTS}
KNOWN = (*FROM_LAYERS, *(SAMPLED + name for name in FROM_LAYERS), *OF_WEIGHTS)
_ROWS = [name for name, kind in FROM_LAYERS.items() if kind.accumulator is Rows]
ROWS = [before + name for before in ("", SAMPLED) for name in _ROWS]
