"""Copies of what an optimizer moves, and whether it moved."""

import torch
from torch import Tensor

from modula import SteepestDescent


def snapshot(optimizer: SteepestDescent) -> list[Tensor]:
    """Copies of all weights and all of their state."""
    weights = [w for group in optimizer.param_groups for w in group["params"]]
    state = [value for w in weights for value in optimizer.state[w].values()]
    return [x.detach().clone() for x in (*weights, *state)]


def assert_unchanged(optimizer: SteepestDescent, before: list[Tensor]) -> None:
    """Fail unless weights and state are bit by bit what they were."""
    for now, then in zip(snapshot(optimizer), before, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0)
