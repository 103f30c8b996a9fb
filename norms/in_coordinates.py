"""Norms in other coordinates: norm(C x) for a linear map C, and sqrt(<x, H x>)."""

from dataclasses import dataclass

from torch import Tensor

from modula.norms.base import Norm
from modula.norms.maps.linear import LinearMap
from modula.norms.numerics import add_dims, flat, ratio, split_scale


@dataclass(frozen=True, repr=False)
class InCoordinates(Norm):
    """||x|| = norm(C x), for coordinates that are known.

        ||g||_* = norm.dual(C^-T g),    duality_map(g) = C^-1 norm.duality_map(C^-T g)

    Source: the sandwich of every preconditioned method, e.g. Carlson et al. 2015,
    arXiv:1511.02247, section 3.
    """

    norm: Norm
    coordinates: LinearMap

    @property
    def ndim(self) -> int:
        return self.norm.ndim

    def __repr__(self) -> str:
        return f"{self.norm} in other coordinates"

    def __call__(self, x: Tensor) -> Tensor:
        return self.norm(self.coordinates.apply(self.prepare(x))).to(x.dtype)

    def dual(self, g: Tensor) -> Tensor:
        return self.norm.dual(self.coordinates.inverse_transpose(self.prepare(g))).to(g.dtype)

    def duality_map(self, g: Tensor) -> Tensor:
        inner = self.norm.duality_map(self.coordinates.inverse_transpose(self.prepare(g)))
        return self.coordinates.inverse(inner).to(g.dtype)


@dataclass(frozen=True, repr=False)
class Quadratic(Norm):
    """||x|| = sqrt(<x, H x>), for a symmetric positive definite map H of weights of ndim dims.

        ||g||_* = sqrt(<g, H^-1 g>),    duality_map(g) = H^-1 g / ||g||_*

    It is the Euclidean length in any coordinates C with C^T C = H.
    Source: Boyd and Vandenberghe 2004, Convex Optimization, section 9.4.1.
    """

    form: LinearMap
    ndim: int = 2

    def __repr__(self) -> str:
        return "a quadratic form"

    def __call__(self, x: Tensor) -> Tensor:
        unit, top = split_scale(self.prepare(x), self.ndim)
        return (top * self._root(unit, self.form.apply(unit))).to(x.dtype)

    def dual(self, g: Tensor) -> Tensor:
        unit, top = split_scale(self.prepare(g), self.ndim)
        return (top * self._root(unit, self.form.inverse(unit))).to(g.dtype)

    def duality_map(self, g: Tensor) -> Tensor:
        unit, _ = split_scale(self.prepare(g), self.ndim)
        steepest = self.form.inverse(unit)
        length = add_dims(self._root(unit, steepest), self.ndim)
        return ratio(steepest, length).to(g.dtype)

    def _root(self, x: Tensor, y: Tensor) -> Tensor:
        """sqrt(<x, y>); rounding may leave less than zero of a map that is nearly singular."""
        return flat(x * y, self.ndim).sum(-1).clamp(min=0).sqrt()
