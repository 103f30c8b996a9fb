"""The rule for a mean that moves under the precision of its own posterior."""

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from modula.duality.program.line import Live, line
from modula.duality.program.names import GRADIENT_TIMES_NOISE, NOISE
from modula.duality.program.slot import Slot
from modula.duality.setting.derive import Derived, Setting, derives
from modula.duality.setting.potential import Sharp
from modula.kernels.moments import ivon
from modula.kernels.op import Locality, Op, Shape, elementwise_cost
from modula.manifolds.euclidean import Euclidean
from modula.norms.metrics.posterior import Posterior
from modula.norms.vector import L2


@cache
def _draw_op(ess: float, delta: float) -> Op:
    def draw(hessian: Tensor) -> Tensor:
        """A normal draw of variance 1 / (ess (h + delta))."""
        precision = (ess * (hessian + delta)).clamp(min=torch.finfo(hessian.dtype).tiny)
        return torch.randn_like(hessian) / precision.sqrt()

    return Op("draw", draw, elementwise_cost(3, 2), Locality.ELEMENTWISE)


@derives(L2, Euclidean, Posterior, Sharp)
def posterior_mean(setting: Setting, shape: Shape) -> Derived:
    """IVON: (m + prior w) / (h + prior) with the new h, times the first h + prior.

    Source: Shen et al. 2024, arXiv:2402.17641.
    """
    metric = cast(Posterior, setting.metric)
    ess, delta = float(metric.ess), float(metric.prior)
    moved: dict[str, Any] = {"ess": ess, "delta": delta}
    return Derived(
        (
            line("curvature", ivon.stein_hessian, GRADIENT_TIMES_NOISE, "hessian", **moved),
            line(
                "hessian",
                ivon.positive_average,
                *("hessian", "curvature"),
                beta=Live("beta", metric.beta),
                delta=delta,
            ),
            line(
                "direction",
                ivon.posterior_direction,
                *("query", "weight", "hessian"),
                delta=delta,
                clip=metric.clip,
            ),
        ),
        scale=metric.first + delta,
        slots=(("hessian", Slot(fill=metric.first)),),
        draw=(line(NOISE, _draw_op(ess, delta), "hessian"),),
    )
