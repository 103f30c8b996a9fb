"""Where weights live: exact projection, tangent space, retraction, residual and sampling."""

from modula.manifolds.base import Manifold
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.implicit import Implicit
from modula.manifolds.isospectral import Isospectral
from modula.manifolds.norm_ball import NormBall
from modula.manifolds.oblique import Oblique
from modula.manifolds.product import Product
from modula.manifolds.region import Region
from modula.manifolds.rotations import Cayley, CayleyNeumann, Rotations
from modula.manifolds.spd import SPD
from modula.manifolds.spectral_ball import SpectralBall, SpectralBand
from modula.manifolds.spectral_sphere import SpectralSphere
from modula.manifolds.sphere import Sphere
from modula.manifolds.stiefel import Stiefel
from modula.manifolds.transposed import Transposed
from modula.manifolds.unit_condition_number import UnitConditionNumber

__all__ = [
    "Cayley",
    "CayleyNeumann",
    "Euclidean",
    "Implicit",
    "Isospectral",
    "Manifold",
    "NormBall",
    "Oblique",
    "Product",
    "Region",
    "Rotations",
    "SPD",
    "SpectralBall",
    "SpectralBand",
    "SpectralSphere",
    "Sphere",
    "Stiefel",
    "Transposed",
    "UnitConditionNumber",
]
