"""A line of a batch, whose twin and options are found once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from modula.duality.program.line import Line, Live
from modula.kernels.op import Twin

Rows = tuple[int, ...]  # places of weights in their batch


class BatchLine(NamedTuple):
    """A line with its twin and options resolved for one batch.

    call        the twin for the batch's tensors, with the options as declared
    live        options that the user may change
    per_weight  values by option that differs by weight, one a weight
    """

    line: Line
    call: Twin
    live: Mapping[str, Live]
    per_weight: Mapping[str, list[float]]

    def changed(self, live: Mapping[str, float], rows: Rows) -> dict[str, Any]:
        """Options that differ from the declared ones, for these weights."""
        return {k: each.given(live) for k, each in self.live.items() if each.name in live} | {
            k: [values[i] for i in rows] for k, values in self.per_weight.items()
        }


def places(rows: Rows, have: Rows) -> list[int]:
    """Where each of these weights stands among those that there is something of."""
    return [have.index(i) for i in rows]
