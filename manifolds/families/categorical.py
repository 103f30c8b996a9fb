"""The categorical family: one of several outcomes, in as many logits as are free."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution

from modula.manifolds.checks import is_whole
from modula.manifolds.families.base import ExponentialFamily


@dataclass(frozen=True)
class Categorical(ExponentialFamily):
    r"""One of K outcomes 0 .. K-1; K = 2 is Bernoulli, with the outcome 0 as its success.

        T(x) = (x is 0, ..., x is K-2)         natural_k = log(p_k / p_(K-1))
        A = log(1 + sum_k exp natural_k)       m = (p_0, ..., p_(K-2))

    The last logit is fixed at 0: with all K of them free, the Fisher metric would be singular.

    >>> Categorical(3).from_mean(torch.tensor([0.5, 0.25]))
    tensor([0.6931, 0.0000])

    Source: Amari 2016, Information Geometry and Its Applications, 2.2.
    """

    outcomes: int = 2

    def __post_init__(self) -> None:
        if not is_whole(self.outcomes, 2):
            raise ValueError(f"Categorical needs 2 outcomes or more, got {self.outcomes!r}")

    @property
    def dim(self) -> int:
        return self.outcomes - 1

    def statistics(self, x: Tensor) -> Tensor:
        return F.one_hot(x, self.outcomes)[..., :-1].to(torch.get_default_dtype())

    def log_partition(self, natural: Tensor) -> Tensor:
        return self._logits(natural).logsumexp(-1)

    def from_mean(self, mean: Tensor) -> Tensor:
        self.check_shape(mean)
        return mean.log() - torch.log1p(-mean.sum(-1, keepdim=True))

    def distribution(self, natural: Tensor) -> Distribution:
        self.check_shape(natural)
        return TorchCategorical(logits=self._logits(natural))

    @staticmethod
    def _logits(natural: Tensor) -> Tensor:
        return F.pad(natural, (0, 1))
