"""Norms of the last `ndim` dims of a tensor, read as one long vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor

from modula.norms.base import Norm
from modula.norms.numerics import flat, l1_threshold, largest, ratio, split_scale


@dataclass(frozen=True, repr=False)
class VectorNorm(Norm, ABC):
    """A norm on x: (..., d1, ..., d_ndim), read as one vector of n = d1 * ... * d_ndim entries.

    A subclass states its formulas on v: (..., n), whose largest |entry| is 1 (or 0).
    """

    ndim: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ndim < 0:
            raise ValueError(f"a norm measures 0 trailing dims or more, not ndim={self.ndim}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def over(self, ndim: int) -> Norm:
        return replace(self, ndim=ndim)

    def __call__(self, x: Tensor) -> Tensor:
        unit, top = split_scale(self.prepare(x), self.ndim)
        return (top * self._value(flat(unit, self.ndim))).to(x.dtype)

    def dual(self, g: Tensor) -> Tensor:
        return self.dual_norm()(g)

    def duality_map(self, g: Tensor) -> Tensor:
        unit, _ = split_scale(self.prepare(g), self.ndim)
        return self._steepest(flat(unit, self.ndim)).reshape(g.shape).to(g.dtype)

    @abstractmethod
    def dual_norm(self) -> VectorNorm:
        """The norm whose value is this one's dual."""

    def _nearest(self, unit: Tensor, radius: Tensor) -> Tensor:
        return self._clipped(flat(unit, self.ndim), radius.unsqueeze(-1)).reshape(unit.shape)

    def _shrunk(self, unit: Tensor, step: Tensor) -> Tensor:
        return unit - self.dual_norm()._nearest(unit, step)

    @abstractmethod
    def _value(self, v: Tensor) -> Tensor: ...

    @abstractmethod
    def _steepest(self, v: Tensor) -> Tensor: ...

    @abstractmethod
    def _clipped(self, v: Tensor, radius: Tensor) -> Tensor: ...


@dataclass(frozen=True, repr=False)
class L1(VectorNorm):
    """||x|| = sum_i |x_i|.  Its duality map moves one entry, the first of the largest."""

    def dual_norm(self) -> VectorNorm:
        return Max(self.ndim)

    def _value(self, v: Tensor) -> Tensor:
        return v.abs().sum(-1)

    def _steepest(self, v: Tensor) -> Tensor:
        if not v.shape[-1]:
            return v
        at = v.abs().argmax(-1, keepdim=True)
        entry = v.gather(-1, at)
        return torch.zeros_like(v).scatter(-1, at, ratio(entry, entry.abs()))

    def _clipped(self, v: Tensor, radius: Tensor) -> Tensor:
        threshold = l1_threshold(v, radius.squeeze(-1)).unsqueeze(-1)
        return v - v.clamp(-threshold, threshold)


@dataclass(frozen=True, repr=False)
class Max(VectorNorm):
    """||x|| = max_i |x_i|.  Its duality map is the sign of every entry, 0 for 0.

    >>> Max(ndim=2)(torch.tensor([[3.0, -4.0], [0.0, 2.0]]))
    tensor(4.)
    """

    def dual_norm(self) -> VectorNorm:
        return L1(self.ndim)

    def nonzero_parts(self, g: Tensor) -> Tensor:
        return g != 0

    def _value(self, v: Tensor) -> Tensor:
        return largest(v.abs())

    def _steepest(self, v: Tensor) -> Tensor:
        return ratio(v, v.abs())  # torch.sign would turn a NaN into 0

    def _clipped(self, v: Tensor, radius: Tensor) -> Tensor:
        return v.clamp(-radius, radius)


@dataclass(frozen=True, repr=False)
class EuclideanLength(VectorNorm, ABC):
    """||x|| = factor(n) ||x||_2: the Euclidean length, up to a factor for the number of entries."""

    @abstractmethod
    def factor(self, size: int) -> float:
        """The norm of a vector of `size` entries and Euclidean length one."""

    def _value(self, v: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(v, dim=-1)
        return self.factor(v.shape[-1]) * length

    def _steepest(self, v: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        return ratio(v, length.expand_as(v)) / self.factor(v.shape[-1])

    def _clipped(self, v: Tensor, radius: Tensor) -> Tensor:
        return v * ratio(radius, self._value(v).unsqueeze(-1)).clamp(max=1)


@dataclass(frozen=True, repr=False)
class L2(EuclideanLength):
    """||x|| = sqrt(sum_i x_i^2), its own dual.  Over two dims it is called Frobenius.

    >>> L2()(torch.tensor([3.0, -4.0]))
    tensor(5.)
    """

    def __repr__(self) -> str:
        return "L2()" if self.ndim < 2 else "Frobenius()"

    def factor(self, size: int) -> float:
        return 1.0

    def dual_norm(self) -> VectorNorm:
        return self


@dataclass(frozen=True, repr=False)
class RMS(EuclideanLength):
    """||x|| = ||x||_2 / sqrt(n): a vector of ones has norm one, however long it is.

    >>> RMS()(torch.ones(4))
    tensor(1.)
    """

    def factor(self, size: int) -> float:
        return 1 / sqrt(max(size, 1))

    def dual_norm(self) -> VectorNorm:
        return RMSDual(self.ndim)


@dataclass(frozen=True, repr=False)
class RMSDual(EuclideanLength):
    """||x|| = sqrt(n) ||x||_2: what RMS is dual to."""

    def factor(self, size: int) -> float:
        return sqrt(max(size, 1))

    def dual_norm(self) -> VectorNorm:
        return RMS(self.ndim)


def Frobenius() -> L2:
    """||W|| = sqrt(sum_ij W_ij^2),  W: (..., out, in)"""
    return L2(ndim=2)


def check_vector_norm(what: str, norm: Norm, kind: type[object], examples: str) -> None:
    """ValueError unless `norm`, a part of `what`, is of this kind and measures one vector."""
    if not isinstance(norm, kind) or norm.ndim != 1:
        dims = f", over {norm.ndim} dims" if isinstance(norm, kind) else ""
        raise ValueError(
            f"{what} needs norms of one vector (ndim=1), such as {examples}; got {norm!r}{dims}"
        )
