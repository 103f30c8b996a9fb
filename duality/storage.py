"""Where one name of a batch's state lives: a contiguous buffer, and each weight's view of it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from modula.duality.program import Slot


class Storage:
    """views[i] is what weight i of the batch sees, and what `optimizer.state` shows."""

    def __init__(self, views: list[Tensor]) -> None:
        self.views = views

    @classmethod
    def filled(
        cls,
        slot: Slot,
        shapes: Sequence[tuple[int, ...]],
        dtype: torch.dtype,
        device: torch.device,
    ) -> Storage:
        """One buffer for all shapes, holding what the slot says."""
        sizes = [prod(shape) for shape in shapes]
        buffer = torch.zeros(sum(sizes), dtype=dtype, device=device)
        parts = buffer.split(sizes)
        views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        for view in views:
            slot.fill_(view)
        return cls(views)

    def stacked(self, rows: Sequence[int]) -> Tensor:
        """The state of these weights, equal in shape, as (rows, *shape); not a copy if all."""
        if len(rows) == 1:
            return self.views[rows[0]].unsqueeze(0)
        if len(rows) == len(self.views):
            return self._whole()
        return torch.stack([self.views[i] for i in rows])

    def write_(self, rows: Sequence[int], values: Tensor | Sequence[Tensor]) -> None:
        """Keep the values of these weights: (rows, *shape), or a list."""
        if isinstance(values, Tensor) and len(rows) == len(self.views):
            self._whole().copy_(values)
        else:
            torch._foreach_copy_([self.views[i] for i in rows], list(values))

    def _whole(self) -> Tensor:
        """The buffer that the views were cut from, as (weights, *shape)."""
        first = self.views[0]
        return first.as_strided((len(self.views), *first.shape), (first.numel(), *first.stride()))
