"""The gradients of the microbatches that a step accumulates, each for itself."""

import torch
from torch import Tensor


class Microbatches:
    """A group of gradients for each microbatch, which ends where the network is called again."""

    def __init__(self) -> None:
        self._groups: list[dict[str, Tensor]] = [{}]

    def begin_(self) -> None:
        """The network is called: what was sent back so far is complete."""
        if self._groups[-1]:
            self._groups.append({})

    def add_(self, name: str, gradient: Tensor) -> None:
        """What a backward pass sends to a weight, before p.grad gets it."""
        group = self._groups[-1]
        before = group.get(name)
        group[name] = gradient.detach().clone() if before is None else before + gradient.detach()

    def values(self, loss_scale: Tensor | float) -> dict[str, Tensor]:
        """M gradients of each weight, (M, *shape); a microbatch that did not reach it sent zero.

        Times M, since the loss that was accumulated is a mean: the mean of the M is p.grad.
        """
        groups = [group for group in self._groups if group]
        names = {name for group in groups for name in group}
        return {name: _stacked(groups, name) * (len(groups) / loss_scale) for name in names}


def _stacked(groups: list[dict[str, Tensor]], name: str) -> Tensor:
    zero = torch.zeros_like(next(group[name] for group in groups if name in group))
    return torch.stack([group.get(name, zero) for group in groups])
