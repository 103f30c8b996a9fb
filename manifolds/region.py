"""The base class of regions: closed sets with interior points, such as balls."""

from abc import abstractmethod

from torch import Tensor

from modula.manifolds.base import Manifold


class Region(Manifold):
    r"""A closed set with interior points.

    Inside, every vector is tangent.  At the boundary the vectors that stay form a convex cone K(x),
    and to_tangent is not linear any more:

        to_tangent(x, v) = the vector of K(x) nearest to v

    and the tangent constraint says what L v may not be, instead of L v = 0: v is tangent where no
    part of it is normal.
    Laws, for p = to_tangent(x, v), in place of those of a tangent space:
        <v - p, p> == 0,  and  <v - p, u> <= 0 for every u in K(x)
        to_tangent(x, c v) == c p for every c >= 0
    The points of a region are its own projections, and retract(x, v) = project(x + v).

    Source: Moreau 1962, Decomposition orthogonale d'un espace hilbertien selon deux cones
    mutuellement polaires.
    """

    @abstractmethod
    def settled(self, x: Tensor) -> Tensor:
        """x in float64, on the boundary where that is a rounding of x's own precision away."""
