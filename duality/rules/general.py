"""Rules for any norm on any manifold: the general solver."""

from functools import cache

import torch
from torch import Tensor

from modula.duality.program.cost import cost_of_rounds
from modula.duality.program.line import line
from modula.duality.program.slot import Slot
from modula.duality.rules.on_manifold import tangent_line
from modula.duality.rules.retraction import retraction
from modula.duality.rules.solvers.general import ROUNDS, solve
from modula.duality.setting.derive import Derived, Setting, derives
from modula.kernels.op import Op, Shape, elementwise_cost
from modula.manifolds.base import Manifold
from modula.norms.base import Norm


@cache
def solver_ops(norm: Norm, manifold: Manifold, ndim: int) -> tuple[Op, Op, Op]:
    """The general solver, which leaves (2, *weight), and the two: direction and dual."""

    def splitting(weight: Tensor, tangent: Tensor, dual: Tensor) -> Tensor:
        return torch.stack(solve(norm, manifold, weight, tangent, dual=dual), -ndim - 1)

    def first(solved: Tensor) -> Tensor:
        return solved.select(-ndim - 1, 0)

    def second(solved: Tensor) -> Tensor:
        return solved.select(-ndim - 1, 1)

    free = elementwise_cost(0, 0)
    whole = Op(f"splitting[{norm}, {manifold}]", splitting, cost_of_rounds(norm, manifold, ROUNDS))
    return whole, Op("first", first, free), Op("second", second, free)


@derives(Norm, Manifold)
def general_solver(setting: Setting, shape: Shape) -> Derived:
    """Any norm on any manifold: a fixed number of rounds of splitting, then made feasible.

    They start where those of the step before ended, if that is proved to help.
    """
    splitting, first, second = solver_ops(setting.norm, setting.manifold, len(shape))
    return Derived(
        (
            tangent_line(setting.manifold, shape),
            line("solved", splitting, "weight", "tangent", "dual"),
            line("direction", first, "solved"),
            line("dual", second, "solved"),
        ),
        after=retraction(setting.manifold, len(shape)),
        slots=(("dual", Slot()),),
    )
