"""Where weights live, and densities over them.

A Manifold has an exact projection, tangent space, retraction, residual and sampling.  An
ExponentialFamily has the Fisher metric, and natural gradients.

    base              Manifold and its laws;  region: sets with an inside
    sphere, oblique   vectors of one length, on unit_vectors
    stiefel, unit_condition_number, spectral_sphere, isospectral, spd    matrices
    spectral_ball, norm_ball    regions
    implicit          given by one function, on jacobian
    transposed, product         manifolds made of manifolds
    affine_invariant  geodesics of SPD;  rotations: charts of orthogonal blocks
    families/         exponential families and variational Newton steps
    numerics, checks  arithmetic at every scale; what manifolds are made of
"""

from modula.manifolds.affine_invariant import (
    NormalCoordinates,
    affine_inner,
    factor_step,
    geodesic,
)
from modula.manifolds.base import Manifold, TangentConstraint
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.families.base import ExponentialFamily, blr_step
from modula.manifolds.families.beta import Beta
from modula.manifolds.families.categorical import Categorical
from modula.manifolds.families.gamma import Gamma
from modula.manifolds.families.gaussian import DiagonalGaussian, Gaussian
from modula.manifolds.families.variational_newton import stein_hessian, von_step
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
    "Beta",
    "Categorical",
    "DiagonalGaussian",
    "Euclidean",
    "ExponentialFamily",
    "Gamma",
    "Gaussian",
    "Implicit",
    "Isospectral",
    "Manifold",
    "NormBall",
    "NormalCoordinates",
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
    "TangentConstraint",
    "Transposed",
    "UnitConditionNumber",
    "affine_inner",
    "blr_step",
    "factor_step",
    "geodesic",
    "stein_hessian",
    "von_step",
]
