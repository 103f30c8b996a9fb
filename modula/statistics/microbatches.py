"""Separate gradients of the microbatches of one step."""

import torch
from torch import Tensor


class Microbatches:
    """Gradients by microbatch; a new one begins where the network is called again."""

    def __init__(self) -> None:
        self._groups: list[dict[str, Tensor | None]] = [{}]

    def begin_(self) -> None:
        """Begin a new microbatch: the network is called again."""
        if self._groups[-1]:
            self._groups.append({})

    def add_(self, name: str, gradient: Tensor | None) -> None:
        """Add a gradient that a backward pass sends to a weight, before p.grad gets it.

        None counts the microbatch, and keeps nothing of a weight that nobody asks about now.
        """
        group = self._groups[-1]
        before = group.get(name)
        if gradient is None:
            group[name] = None
        else:
            now = gradient.detach()
            group[name] = now.clone() if before is None else before + now

    def values(self, loss_scale: Tensor | float) -> dict[str, Tensor]:
        """M gradients of each weight, (M, *shape); a microbatch that did not reach it sent zero.

        Times M, since the loss that was accumulated is a mean: the mean of the M is p.grad.  In
        float32 or finer: M times a gradient that float16 holds may be one that it does not.
        """
        groups = [group for group in self._groups if group]
        known = {name: x for group in groups for name, x in group.items() if x is not None}
        return {
            name: _stacked(groups, name, torch.zeros_like(x)) * (len(groups) / loss_scale)
            for name, x in known.items()
        }


def _stacked(groups: list[dict[str, Tensor | None]], name: str, zero: Tensor) -> Tensor:
    found = (group.get(name) for group in groups)
    stacked = torch.stack([zero if x is None else x for x in found])
    return stacked.to(torch.promote_types(zero.dtype, torch.float32))
