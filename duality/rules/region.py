"""Rules for regions: the steepest step that does not leave."""

from functools import cache
from typing import cast

from torch import Tensor

from modula.duality.program.cost import cost_of_rounds
from modula.duality.program.line import line
from modula.duality.rules.retraction import retraction
from modula.duality.rules.solvers.general import ROUNDS
from modula.duality.rules.solvers.region import steepest_in_region
from modula.duality.setting.derive import Derived, Setting, derives
from modula.kernels.op import Op, Shape
from modula.manifolds.region import Region
from modula.norms.base import Norm


@cache
def cone_op(norm: Norm, region: Region) -> Op:
    """The general solver in the cone of a region, as an op."""

    def splitting(weight: Tensor, query: Tensor) -> Tensor:
        return steepest_in_region(norm, region, weight, query)

    return Op(f"splitting[{norm}, {region}]", splitting, cost_of_rounds(norm, region, ROUNDS))


@derives(Norm, Region)
def steepest_in_cone(setting: Setting, shape: Shape) -> Derived:
    """Any norm in any region: inside, its duality map; at the boundary, the steepest way along."""
    region = cast(Region, setting.manifold)
    return Derived(
        (line("direction", cone_op(setting.norm, region), "weight", "query"),),
        after=retraction(region, len(shape)),
    )
