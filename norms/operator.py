"""Operator norms, induced by norms of the vectors a matrix maps between: the largest stretch.

||W|| = max of ||W x||_codomain over ||x||_domain <= 1,  W: (..., out, in)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from modula.norms.base import MatrixNorm, NoClosedForm, Norm, Scaled
from modula.norms.numerics import largest
from modula.norms.spectral import Spectral
from modula.norms.vector import (
    L1,
    RMS,
    EuclideanLength,
    Max,
    RMSDual,
    VectorNorm,
    check_vector_norm,
)


def RMSToRMS() -> Spectral:
    """How much W can stretch a vector, both sides measured in RMS: sqrt(in / out) sigma_max(W).

    Source: Large et al. 2024, arXiv:2405.14813.
    """
    return Spectral(RMS(), RMS())


@dataclass(frozen=True, repr=False)
class Rows(MatrixNorm):
    """The largest norm of a row: the largest stretch from p to Max, if `vector` is dual to p.

        ||W|| = max_i ||w_i||,   ||G||_* = sum_i ||g_i||_*

    The duality map is that of `vector`, row by row.
    """

    vector: Norm

    def __post_init__(self) -> None:
        check_vector_norm("Rows", self.vector, Norm, "RMS(), L2(), L1() or Max()")

    def __repr__(self) -> str:
        return f"Rows({self.vector})"

    @property
    def of_column(self) -> Norm:
        one_entry = float(self.vector(torch.ones(1, dtype=torch.float64)))
        return Max() if one_entry == 1 else one_entry * Max()

    def __call__(self, x: Tensor) -> Tensor:
        return largest(self.vector(self.prepare(x))).to(x.dtype)

    def dual(self, g: Tensor) -> Tensor:
        return self.vector.dual(self.prepare(g)).sum(-1).to(g.dtype)

    def duality_map(self, g: Tensor) -> Tensor:
        return self.vector.duality_map(self.prepare(g)).to(g.dtype)

    def nonzero_parts(self, g: Tensor) -> Tensor:
        return self.vector.nonzero_parts(g)

    def _nearest(self, unit: Tensor, radius: Tensor) -> Tensor:
        return self.vector.project(unit, radius.unsqueeze(-1))


@dataclass(frozen=True, repr=False)
class Columns(MatrixNorm):
    """The largest norm of a column: the largest stretch from L1 to `vector`.

        ||W|| = max_j ||w_j||,   ||G||_* = sum_j ||g_j||_*

    The duality map is that of `vector`, column by column.
    """

    vector: Norm

    def __post_init__(self) -> None:
        check_vector_norm("Columns", self.vector, Norm, "RMS(), L2(), L1() or Max()")

    def __repr__(self) -> str:
        return f"Columns({self.vector})"

    @property
    def of_column(self) -> Norm:
        return self.vector

    def __call__(self, x: Tensor) -> Tensor:
        return largest(self.vector(self.prepare(x).mT)).to(x.dtype)

    def dual(self, g: Tensor) -> Tensor:
        return self.vector.dual(self.prepare(g).mT).sum(-1).to(g.dtype)

    def duality_map(self, g: Tensor) -> Tensor:
        return self.vector.duality_map(self.prepare(g).mT).mT.to(g.dtype)

    def nonzero_parts(self, g: Tensor) -> Tensor:
        return self.vector.nonzero_parts(g.mT).mT

    def _nearest(self, unit: Tensor, radius: Tensor) -> Tensor:
        return self.vector.project(unit.mT, radius.unsqueeze(-1)).mT


def operator(domain: Norm, codomain: Norm) -> Norm:
    """The largest stretch of a matrix W: (..., out, in), wherever it has a closed form.

        L1 -> Max         the largest |entry|
        L1 -> q           the largest column in q
        p  -> Max         the largest row in the dual of p
        L2, RMS, RMSDual between themselves: the largest singular value, scaled

    A multiple of a norm stretches as much as it says; L1 leads to any norm of one vector, FromDual
    too.  Every other pair of these norms is NP-hard and raises NoClosedForm.

    >>> operator(RMS(), RMS()), operator(L1(), RMS()), operator(Max(), Max())
    (RMSToRMS(), Columns(RMS()), Rows(L1()))

    Source: Hendrickx and Olshevsky 2010, doi:10.1137/09076773X (Max -> q is NP-hard to approximate
    for q = L1, L2; L2 -> L1 is Max -> L2 of the transpose).
    """
    if isinstance(domain, Scaled):
        return (1 / domain.factor) * operator(domain.norm, codomain)
    if isinstance(codomain, Scaled):
        return codomain.factor * operator(domain, codomain.norm)
    check_vector_norm("operator", domain, VectorNorm, "L1(), L2(), RMS() or Max()")
    known = Norm if isinstance(domain, L1) else VectorNorm
    check_vector_norm("operator", codomain, known, "L1(), L2(), RMS() or Max()")
    if isinstance(domain, L1):
        return Max(ndim=2) if isinstance(codomain, Max) else Columns(codomain)
    if isinstance(codomain, Max):
        return Rows(domain.dual_norm())
    if isinstance(domain, EuclideanLength) and isinstance(codomain, EuclideanLength):
        return Spectral(domain, codomain)
    raise NoClosedForm(_no_closed_form(domain, codomain))


def _no_closed_form(domain: Norm, codomain: Norm) -> str:
    """||x||_RMS <= ||x||_Max and ||y||_1 <= ||y||_RMSDual: swapping these in gives a bound."""
    inner = RMS() if isinstance(domain, Max) else domain
    outer = RMSDual() if isinstance(codomain, L1) else codomain
    return (
        f"operator({domain}, {codomain}) has no closed form: it is NP-hard to compute; the "
        f"nearest that has one is operator({inner}, {outer}), which is never smaller"
    )
