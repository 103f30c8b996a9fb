"""The step length of automatic gradient descent, in place of a learning rate."""

from dataclasses import dataclass

import torch
from torch import Tensor

from modula.norms.checks import check_fields


@dataclass(frozen=True)
class Automatic:
    """The step length that minimises a bound on the loss, from the dual norm of the momentum.

        eta = gain * log((1 + sqrt(1 + 4 N)) / 2),    N = sum over weights of budget * ||m||_*

    eta minimises -eta N + (e^eta - 1)^2 / 2, so (e^eta - 1) e^eta = N; it is measured in the
    modular norm of the whole network.  The bound asks for weights of bounded norm: on minibatches
    keep each in a norm ball (recipes.automatic does).  Unlike the duality maps it does depend on
    the scale of the loss, which should be a mean.  And it sees a bound on the gradients, which one
    bad batch may break for as long as momenta remember it: see modula.optimizer.outliers.

    In param_groups "lr" is then a multiplier, 1 at first, which any torch scheduler may lower.

    >>> Automatic().length(torch.tensor(1.0))  # the logarithm of the golden ratio
    tensor(0.4812)

    Source: Bernstein, Mingard, Huang, Azizan, Yue 2023, arXiv:2304.05187.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.gain > 0:
            raise ValueError(f"Automatic(gain=...) needs a positive gain; got {self.gain}")

    def length(self, gains: Tensor) -> Tensor:
        """eta, a 0-d tensor, for what each weight adds to the dual norm N."""
        dual_norm = gains.sum()
        # (1 + sqrt(1 + 4N)) / 2 = 1 + 2N / (1 + sqrt(1 + 4N)): log1p keeps a tiny N.
        return self.gain * torch.log1p(2 * dual_norm / (1 + torch.sqrt(1 + 4 * dual_norm)))
