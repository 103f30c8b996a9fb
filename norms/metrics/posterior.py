"""The precision of a Gaussian posterior of the weights as a metric: IVON."""

from __future__ import annotations

from dataclasses import dataclass

from modula.norms.checks import check_fields
from modula.norms.metrics.base import Metric


@dataclass(frozen=True, repr=False)
class Posterior(Metric):
    """S = h + prior, where the weights are N(w, 1 / (ess S)), entry by entry: IVON.

    h is the Hessian of the mean loss, from gradients at weights drawn from that Gaussian.

    ess    examples that the loss is the mean of, or the effective number of them
    prior  precision of the prior over ess: damping and weight decay at once
    beta   of the average of h
    first  h before the first step
    clip   no entry of a direction, in units of the first S, is longer
    Source: Shen et al. 2024, arXiv:2402.17641.
    """

    ess: float
    prior: float = 1e-4
    beta: float = 0.99999
    first: float = 1.0
    clip: float = float("inf")
    power: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        fine = self.ess > 0 and self.prior >= 0 and 0 <= self.beta < 1 and self.clip > 0
        if not fine or self.first + self.prior <= 0 or self.first < 0:
            raise ValueError(
                "a posterior needs ess > 0, prior >= 0, 0 <= beta < 1, first >= 0, clip > 0 and "
                f"first + prior > 0; got {self}"
            )
