"""The gradients of the microbatches that a step accumulates, each for itself."""

import torch
from torch import Tensor


class Microbatches:
    """A group of gradients for each backward pass.

    A pass is over when a weight gets its next gradient.  So a weight shared by two *reentrant*
    checkpoints, which gets two in one pass, counts that pass twice.
    """

    def __init__(self) -> None:
        self._groups: list[dict[str, Tensor]] = []

    def add_(self, name: str, gradient: Tensor) -> None:
        """What one backward pass sends to a weight, before p.grad gets it."""
        if not self._groups or name in self._groups[-1]:
            self._groups.append({})
        self._groups[-1][name] = gradient.detach().clone()

    def values(self, loss_scale: Tensor | float) -> dict[str, Tensor]:
        """M gradients of each weight, (M, *shape); a pass that did not reach it sent zero.

        Scaled by M, since the loss that was accumulated is a mean: their mean is p.grad.
        """
        names = {name for group in self._groups for name in group}
        return {name: self._stacked(name) * (len(self._groups) / loss_scale) for name in names}

    def _stacked(self, name: str) -> Tensor:
        known = next(group[name] for group in self._groups if name in group)
        zero = torch.zeros_like(known)
        return torch.stack([group.get(name, zero) for group in self._groups])
