"""The Beta family: conjugate to coin tosses."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta as TorchBeta
from torch.distributions import Distribution

from modula.manifolds.families.base import ExponentialFamily

_STEPS = 12  # reach rounding for all parameters from 1e-3 to 1e4; two more are differentiated


@dataclass(frozen=True)
class Beta(ExponentialFamily):
    r"""x^(a - 1) (1 - x)^(b - 1), up to a constant, on 0 < x < 1: (...).

        T(x) = (log x, log(1 - x))                       natural = (a, b)
        A = lgamma(a) + lgamma(b) - lgamma(a + b)        m = digamma((a, b)) - digamma(a + b)

    No formula inverts the digamma: from_mean is Newton's method, to rounding.

    >>> Beta().to_mean(torch.tensor([1.0, 0.5]))
    tensor([-0.6137, -2.0000])

    Source: Minka 2000, Estimating a Dirichlet distribution, for Newton's method.
    """

    @property
    def dim(self) -> int:
        return 2

    def statistics(self, x: Tensor) -> Tensor:
        return torch.stack((x.log(), torch.log1p(-x)), -1)

    def log_partition(self, natural: Tensor) -> Tensor:
        return natural.lgamma().sum(-1) - natural.sum(-1).lgamma()

    def from_mean(self, mean: Tensor) -> Tensor:
        self.check_shape(mean)
        target = mean.detach()
        natural = self._start(target)
        for _ in range(_STEPS):
            change = self.newton_step(natural, target) - natural
            # Growing a parameter straight, shrinking its reciprocal: none passes zero.
            shrunk = natural * (natural / (natural - change))
            natural = torch.where(change > 0, natural + change, shrunk)
        # Two steps carry derivatives up to the third.
        return self.newton_step(self.newton_step(natural, mean), mean)

    def distribution(self, natural: Tensor) -> Distribution:
        self.check_shape(natural)
        return TorchBeta(natural[..., 0], natural[..., 1])

    @staticmethod
    def _start(mean: Tensor) -> Tensor:
        """Sum of what holds for small (a, b), where m = -(b/a, a/b) / (a + b), and for large."""
        other_to_own = (mean / mean.flip(-1)).sqrt()  # b / a, and a / b
        small = -other_to_own / ((1 + other_to_own) * mean)
        geometric_means_to_one = -torch.expm1(mean.logsumexp(-1, keepdim=True))
        return small + mean.exp() / (2 * geometric_means_to_one)
