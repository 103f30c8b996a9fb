"""The buffer that holds one name of a batch's state, with a view for each weight."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from modula.duality.program.slot import Slot
from modula.kernels.rounding import to_bfloat16_at_random


class StateBuffer:
    """One contiguous buffer for one name of state; views[i] is the part of weight i.

    working       dtype that is computed in; if it is another than that of the views, lines get
                  copies, and what they keep is rounded to bfloat16 at random
    is_worked_on  whether lines get the views themselves, so that they may write to them
    whole         the buffer that the views were cut from, as (weights, *shape); None where their
                  shapes differ
    """

    def __init__(self, views: list[Tensor], working: torch.dtype) -> None:
        self.views = views
        self.working = working
        self.is_worked_on = views[0].dtype == working
        self.whole = _whole(views)

    @classmethod
    def filled(
        cls,
        slot: Slot,
        shapes: Sequence[tuple[int, ...]],
        dtype: torch.dtype,
        device: torch.device,
        working: torch.dtype,
    ) -> StateBuffer:
        """One buffer for all shapes, holding what the slot says."""
        sizes = [prod(shape) for shape in shapes]
        buffer = torch.zeros(sum(sizes), dtype=dtype, device=device)
        parts = buffer.split(sizes)
        views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        for view in views:
            slot.fill_(view)
        return cls(views, working)

    def listed(self, rows: Sequence[int]) -> list[Tensor]:
        """The state of these weights, one by one."""
        views = [self.views[i] for i in rows]
        return views if self.is_worked_on else [view.to(self.working) for view in views]

    def stacked(self, rows: Sequence[int]) -> Tensor:
        """The state of these weights, equal in shape, as (rows, *shape); not a copy if all."""
        if self.whole is not None and len(rows) == len(self.views):
            return self.whole.to(self.working)
        listed = self.listed(rows)
        return listed[0].unsqueeze(0) if len(listed) == 1 else torch.stack(listed)

    def write_(self, rows: Sequence[int], values: Tensor | Sequence[Tensor], seed: int = 0) -> None:
        """Keep the values of these weights, (rows, *shape) or a list; seed: of the rounding."""
        if not self.is_worked_on:
            generator = torch.Generator(self.views[0].device).manual_seed(seed)
            values = [to_bfloat16_at_random(value, generator) for value in values]
        torch._foreach_copy_([self.views[i] for i in rows], list(values))


def _whole(views: Sequence[Tensor]) -> Tensor | None:
    first = views[0]
    if any(view.shape != first.shape for view in views):
        return None
    return first.as_strided((len(views), *first.shape), (first.numel(), *first.stride()))


def state_dtype(weight: Tensor) -> torch.dtype:
    """float32 for half-precision weights: an average with beta near 1 stands still in bfloat16."""
    return weight.dtype if weight.dtype.itemsize >= 4 else torch.float32
