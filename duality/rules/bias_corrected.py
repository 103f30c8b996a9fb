"""Rules for metrics whose inverse is corrected for the noise of a batch."""

from dataclasses import replace
from typing import cast

from modula.duality.metrics.bias_corrected import AS_STEPPED
from modula.duality.metrics.diagonal import average_of_squares
from modula.duality.program.line import Live, line
from modula.duality.program.slot import Slot
from modula.duality.rules.under_metric import preconditioned
from modula.duality.setting.derive import Derived, Setting, derives
from modula.duality.setting.momentum import Unbiased
from modula.duality.setting.potential import Sharp
from modula.kernels.moments import bias_corrected
from modula.kernels.op import Shape
from modula.manifolds.euclidean import Euclidean
from modula.norms.metrics.bias_corrected import CrossFitted, VarianceCorrected
from modula.norms.vector import L2


@derives(L2, Euclidean, CrossFitted, Sharp)
def cross_fitted(setting: Setting, shape: Shape) -> Derived:
    """The mean of m_r / x_r less its bias, each microbatch in the metric of the others.

    Source: Nayak et al. 2026, arXiv:2605.20756.
    """
    metric, momentum = cast(CrossFitted, setting.metric).metric, setting.momentum
    if not isinstance(momentum, Unbiased):
        raise ValueError(f"CrossFitted follows an Unbiased momentum, as Adam does; got {momentum}")
    scale = metric.batch**-metric.power
    direction = line(
        "direction",
        bias_corrected.cross_fitted,
        *("query", "parts", "square", "step"),
        momentum=Live("momentum", momentum.beta),
        beta=Live("beta", metric.memory.beta),
        power=metric.power,
        floor=Live("eps", metric.floor, scale),
    )
    average = average_of_squares(metric.memory, "square", "gradient")
    slots = (("square", Slot(second_moment=True)),)
    return Derived((AS_STEPPED, direction, *average), scale=scale, slots=slots)


@derives(L2, Euclidean, VarianceCorrected, Sharp)
def variance_corrected(setting: Setting, shape: Shape) -> Derived:
    """The corrected inverse of S^p times m: some of its eigenvalues may be zero, and S^p is then
    no form that a norm could be made of.
    """
    return replace(preconditioned(setting, shape), measured=None)
