"""SGD, with or without momentum."""

from __future__ import annotations

from typing import Any

from torch import nn

from modula.duality import Decay, HeavyBall, Sharp
from modula.norms.vector import L2
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import entrywise
from modula.recipes.options import checked


@checked()
def sgd(
    model: nn.Module,
    lr: float = 0.1,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float | Decay = 0.0,
    **options: Any,
) -> SteepestDescent:
    """Gradient descent: Frobenius, as long as the gradient.

        m <- momentum m + g;   w <- (1 - lr weight_decay) w - lr m

    The decay is decoupled, where torch.optim.SGD adds it to the gradient.
    """
    ball = HeavyBall(momentum, nesterov)
    group = entrywise(model, L2, ball, weight_decay, potential=Sharp())
    return SteepestDescent(model, lr, groups=[group], **options)
