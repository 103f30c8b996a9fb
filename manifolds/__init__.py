"""Where weights live: exact projection, tangent space, retraction, residual and sampling."""

from modula.manifolds.base import Manifold
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.oblique import Oblique
from modula.manifolds.sphere import Sphere
from modula.manifolds.stiefel import Stiefel

__all__ = ["Euclidean", "Manifold", "Oblique", "Sphere", "Stiefel"]
