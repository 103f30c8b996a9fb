"""Rules for weights with one linear constraint on their tangents."""

from functools import cache

from torch import Tensor

from modula.duality.program.cost import cost_of_projections
from modula.duality.program.line import line
from modula.duality.rules.on_manifold import tangent_line
from modula.duality.rules.retraction import retraction
from modula.duality.rules.solvers.hyperplane import ROUNDS, is_hyperplane, steepest
from modula.duality.setting.derive import Derived, Setting, derives
from modula.kernels.op import Op, Shape
from modula.manifolds.base import Manifold
from modula.manifolds.implicit import Implicit
from modula.manifolds.spectral_sphere import SpectralSphere
from modula.manifolds.sphere import Sphere
from modula.norms.base import Norm


@cache
def hyperplane_op(norm: Norm, manifold: Manifold) -> Op:
    """The steepest unit tangent, as an op."""

    def hyperplane(weight: Tensor, tangent: Tensor) -> Tensor:
        return steepest(norm, manifold, weight, tangent)

    return Op(f"hyperplane[{norm}, {manifold}]", hyperplane, cost_of_projections(norm, ROUNDS + 2))


def _has_root(setting: Setting, shape: Shape) -> bool:
    return is_hyperplane(setting.norm, setting.manifold, shape)


@derives(Norm, Implicit, when=_has_root)
@derives(Norm, SpectralSphere, when=_has_root)
@derives(Norm, Sphere, when=_has_root)
def hyperplane_root(setting: Setting, shape: Shape) -> Derived:
    """Any norm where tangents obey one linear constraint: the root of a monotone function."""
    op = hyperplane_op(setting.norm, setting.manifold)
    return Derived(
        (tangent_line(setting.manifold, shape), line("direction", op, "weight", "tangent")),
        after=retraction(setting.manifold, len(shape)),
    )
