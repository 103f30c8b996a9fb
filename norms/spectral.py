"""The spectral norm and its dual, the nuclear norm, between two Euclidean lengths."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modula.norms.base import MatrixNorm, Norm
from modula.norms.numerics import split_scale
from modula.norms.singular_values import (
    nuclear_norm,
    on_singular_values,
    polar_factor,
    spectral_norm,
)
from modula.norms.vector import L1, L2, RMS, EuclideanLength, Max, check_vector_norm


@dataclass(frozen=True, repr=False)
class Spectral(MatrixNorm):
    """The largest stretch between two Euclidean lengths: the largest singular value, scaled.

        ||W|| = sigma_max(W) / r,   ||G||_* = r sum_i sigma_i(G),   duality map r U V^T
        r = unit_radius(shape) = factor_domain(in) / factor_codomain(out)

    >>> round(Spectral(RMS(), RMS())(torch.ones(4, 1)).item(), 4)
    1.0

    Source: Bernstein and Newhouse 2024, arXiv:2410.21265.
    """

    domain: EuclideanLength = L2()
    codomain: EuclideanLength = L2()

    def __post_init__(self) -> None:
        _check_pair("Spectral", self.domain, self.codomain)

    def __repr__(self) -> str:
        short = {(RMS(), RMS()): "RMSToRMS()", (L2(), L2()): "Spectral()"}
        pair = (self.domain, self.codomain)
        return short.get(pair, f"Spectral({self.domain}, {self.codomain})")

    @property
    def of_column(self) -> Norm:
        return self.codomain

    def unit_radius(self, shape: Sequence[int]) -> float:
        """The largest singular value of a matrix of this shape and of norm one."""
        fan_out, fan_in = shape[-2:]
        return self.domain.factor(fan_in) / self.codomain.factor(fan_out)

    def __call__(self, x: Tensor) -> Tensor:
        value = spectral_norm(self.prepare(x)) / self.unit_radius(x.shape)
        return value.to(x.dtype)

    def dual(self, g: Tensor) -> Tensor:
        value = nuclear_norm(self.prepare(g)) * self.unit_radius(g.shape)
        return value.to(g.dtype)

    def duality_map(self, g: Tensor) -> Tensor:
        unit, _ = split_scale(self.prepare(g), 2)
        return (polar_factor(unit) * self.unit_radius(g.shape)).to(g.dtype)

    def dual_norm(self) -> Norm:
        return Nuclear(self.domain, self.codomain)

    def _nearest(self, unit: Tensor, radius: Tensor) -> Tensor:
        radius = radius * self.unit_radius(unit.shape)
        return on_singular_values(unit, lambda s: Max()._nearest(s, radius))

    def _shrunk(self, unit: Tensor, step: Tensor) -> Tensor:
        step = step / self.unit_radius(unit.shape)
        return on_singular_values(unit, lambda s: Max()._shrunk(s, step))


@dataclass(frozen=True, repr=False)
class Nuclear(MatrixNorm):
    """What Spectral(domain, codomain) is dual to; its duality map u_1 v_1^T / r has rank one.

        ||W|| = r sum_i sigma_i(W),   ||G||_* = sigma_max(G) / r
        r = unit_radius(shape) = factor_domain(in) / factor_codomain(out)

    >>> round(Nuclear()(torch.diag(torch.tensor([3.0, 4.0]))).item(), 4)
    7.0
    """

    domain: EuclideanLength = L2()
    codomain: EuclideanLength = L2()

    def __post_init__(self) -> None:
        _check_pair("Nuclear", self.domain, self.codomain)

    def __repr__(self) -> str:
        plain = (self.domain, self.codomain) == (L2(), L2())
        return "Nuclear()" if plain else f"Nuclear({self.domain}, {self.codomain})"

    @property
    def of_column(self) -> Norm:
        return self.codomain.dual_norm()

    def dual_norm(self) -> Spectral:
        return Spectral(self.domain, self.codomain)

    def unit_radius(self, shape: Sequence[int]) -> float:
        """The largest singular value of a matrix of this shape and of dual norm one."""
        return self.dual_norm().unit_radius(shape)

    def __call__(self, x: Tensor) -> Tensor:
        return self.dual_norm().dual(x)

    def dual(self, g: Tensor) -> Tensor:
        return self.dual_norm()(g)

    def duality_map(self, g: Tensor) -> Tensor:
        unit, _ = split_scale(self.prepare(g), 2)
        u, s, vh = torch.linalg.svd(unit, full_matrices=False)
        direction: Tensor = (u[..., :, :1] * (s[..., None, :1] > 0)) @ vh[..., :1, :]
        return (direction / self.unit_radius(g.shape)).to(g.dtype)

    def _nearest(self, unit: Tensor, radius: Tensor) -> Tensor:
        radius = radius / self.unit_radius(unit.shape)
        return on_singular_values(unit, lambda s: L1()._nearest(s, radius))

    def _shrunk(self, unit: Tensor, step: Tensor) -> Tensor:
        step = step * self.unit_radius(unit.shape)
        return on_singular_values(unit, lambda s: L1()._shrunk(s, step))


def _check_pair(what: str, domain: Norm, codomain: Norm) -> None:
    for norm in (domain, codomain):
        check_vector_norm(what, norm, EuclideanLength, "L2(), RMS() or RMSDual()")
