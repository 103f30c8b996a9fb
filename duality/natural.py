"""Rules under a metric: dir = C^-1 dual(C^-T m), the sandwich."""

from typing import cast

from modula.duality.momentum import Average
from modula.duality.potential import Sharp
from modula.duality.program import Live, line
from modula.duality.rules import Derived, Setting, derives
from modula.kernels.apply import average_square, count
from modula.kernels.op import Shape
from modula.kernels.whiten import whiten
from modula.manifolds.euclidean import Euclidean
from modula.norms.metric import Diagonal
from modula.norms.vector import L2


@derives(L2, Euclidean, Diagonal, Sharp)
def adam(setting: Setting, shape: Shape) -> Derived:
    """Adam: with C^T C = S^(1/2), the sandwich of the Euclidean dual is S^(-1/2) m.

    Source: Kingma and Ba 2015, arXiv:1412.6980.
    """
    metric = cast(Diagonal, setting.metric)
    beta = setting.momentum.beta if isinstance(setting.momentum, Average) else 0.0
    return Derived(
        (
            line("step", count, "step"),
            line("square", average_square, "square", "gradient", beta=metric.beta),
            line(
                "direction",
                whiten,
                "query",
                "square",
                "step",
                beta=Live("momentum", beta),
                beta_square=metric.beta,
                floor=metric.floor,
            ),
        )
    )
