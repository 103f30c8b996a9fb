"""Metrics whose inverse is corrected for the noise of the batch that they were estimated from.

A metric is estimated from noisy gradients, and a step bends that noise into a bias: E[S^-p g] is
not E[S^-p] E[g] where both come from one batch, and E[S^-p] is not E[S]^-p.  How the microbatches
of a step differ tells how much noise there is.
"""

from __future__ import annotations

from dataclasses import dataclass

from modula.norms.checks import check_fields
from modula.norms.metrics.base import Metric
from modula.norms.metrics.diagonal import Diagonal
from modula.norms.metrics.kronecker import Kronecker


@dataclass(frozen=True, repr=False)
class CrossFitted(Metric):
    """Each microbatch in the metric of all others, and the mean of the directions corrected.

        x_r = S_r^p + floor,   S_r: the average that ends with (mean of the g_j, j != r)^2
        D = mean_r m_r / x_r - Var_r(x) mean_r m_r / x_r^3,   m_r: the momentum that ends with g_r

    g_1 ... g_M: gradients of the M microbatches of a step; Var_r(x): sample variance of the x_r.
    The correction shortens an entry: one that it would turn around stays where it is, and none
    gets longer, as in the first steps, of unsure denominators, some would without bound.  What is
    kept from step to step, S and m, has seen the whole batch.  It stands under L2 with Sharp().

    metric  a Diagonal of gradients with an unbiased average, as Adam's

    Where one microbatch alone has a gradient, as in a row of an embedding, the others say nothing
    of its size, and the entry stays: keep the plain metric there.  A single x_r varies M - 1
    times as much as the x_r do among themselves; the smaller number is the published one.
    Source: Nayak et al. 2026 (leave-one-out), arXiv:2605.20756, which warms up and bounds nothing.
    """

    metric: Diagonal

    def __post_init__(self) -> None:
        check_fields(self)
        metric = self.metric
        adam = metric.memory.unbiased and metric.memory.beta < 1
        if not adam or metric.statistic != "gradient":
            raise ValueError(
                f"CrossFitted needs a Diagonal of gradients with an unbiased average; got {metric}"
            )

    @property
    def power(self) -> float:
        return self.metric.power


@dataclass(frozen=True, repr=False)
class VarianceCorrected(Metric):
    """A metric whose inverse is lowered by what noise adds to it on average: the delta rule.

        x^-p  becomes  x^-p - p (p + 1) / 2 x^(-p-2) Var(x),   zero where that is below

    x is an eigenvalue, or an entry, with its damping; Var(x) is the variance that comes in with
    the present batch, of M microbatches:

        Kronecker   (M - 1) / M sum_r (x_r - their mean)^2,   x_r = diag(Q^T L_r Q)
                    with the factor's eigenvectors Q, and microbatch r left out of L_r (jackknife)
        Diagonal    h averages sum_r g_r^2 / M^2, which at sampled labels, where gradients have
                    mean zero, has the mean of g^2 and less noise;   x = (batch h)^p + floor to the
                    power -1, and Var(x) is that of the mean of the x_r, with M g_r^2 / M^2 alone

    metric  a Kronecker of gradients with a fit that is not coupled, as Shampoo's, or a Diagonal of
            gradients at sampled labels with a biased average, as Sophia's

    Source: Nayak et al. 2026, arXiv:2605.20756, where Kronecker factors average each microbatch's
    gradient times itself; here they are those of the whole batch's gradient, as without correction.
    """

    metric: Diagonal | Kronecker

    def __post_init__(self) -> None:
        check_fields(self)
        metric = self.metric
        if isinstance(metric, Kronecker):
            known = not metric.fit.coupled and metric.statistic == "gradient"
        else:
            biased = not metric.memory.unbiased
            known = biased and metric.memory.beta < 1 and metric.statistic == "sampled_gradient"
        if not known:
            raise ValueError(
                "VarianceCorrected needs a Kronecker of gradients with a fit that is not coupled, "
                f"or a Diagonal of sampled gradients with a biased average; got {metric}"
            )

    @property
    def power(self) -> float:
        return self.metric.power
