"""The Gamma family: conjugate to Poisson counts, and to precisions."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import Gamma as TorchGamma

from modula.manifolds.families.base import ExponentialFamily

_STEPS = 3  # from a start good to 1.5 %, each doubles the digits; two more are differentiated


@dataclass(frozen=True)
class Gamma(ExponentialFamily):
    r"""x^(shape - 1) exp(-rate x), up to a constant, on x > 0: (...).

        T(x) = (log x, x)                          natural = (shape, -rate)
        A = lgamma(shape) - shape log(rate)        m = (digamma(shape) - log(rate), shape / rate)

    No formula inverts the digamma: from_mean is Newton's method, to rounding.

    >>> Gamma().to_mean(torch.tensor([1.0, -2.0]))
    tensor([-1.2704,  0.5000])

    Source: Minka 2002, Estimating a Gamma distribution, for the start of Newton's method.
    """

    @property
    def dim(self) -> int:
        return 2

    def statistics(self, x: Tensor) -> Tensor:
        return torch.stack((x.log(), x), -1)

    def log_partition(self, natural: Tensor) -> Tensor:
        shape, rate = natural[..., 0], -natural[..., 1]
        return shape.lgamma() - shape * rate.log()

    def from_mean(self, mean: Tensor) -> Tensor:
        self.check_shape(mean)
        target = mean.detach()
        natural = self._start(target)
        for _ in range(_STEPS):
            natural = self.newton_step(natural, target)
        # Two steps carry derivatives up to the third.
        return self.newton_step(self.newton_step(natural, mean), mean)

    def distribution(self, natural: Tensor) -> Distribution:
        self.check_shape(natural)
        return TorchGamma(natural[..., 0], -natural[..., 1])

    @staticmethod
    def _start(mean: Tensor) -> Tensor:
        gap = mean[..., 1].log() - mean[..., 0]  # log E x - E log x = log(shape) - digamma(shape)
        shape = (3 - gap + ((gap - 3).square() + 24 * gap).sqrt()) / (12 * gap)
        return torch.stack((shape, -shape / mean[..., 1]), -1)
