"""Norms of the singular values s(W) = (s_1 >= s_2 >= ... >= 0) of a matrix W: (..., out, in)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from modula.norms.base import MatrixNorm, Norm
from modula.norms.checks import check_kind, is_kind
from modula.norms.numerics import decreasing_root, l1_threshold, largest, ratio, split_scale
from modula.norms.spectral import on_singular_values
from modula.norms.vector import L2

NEWTON_STEPS = 40  # enough where the convergence is linear, at p near 1; quadratic elsewhere


class SingularValueNorm(MatrixNorm, ABC):
    """A norm that sees only s(W): whatever f does to singular values, U diag(f(s)) V^T to W.

    A subclass states its formulas on s: (..., rank), sorted, for a W whose largest |entry| is 1.
    Source: von Neumann 1937; Lewis 1995, "The convex analysis of unitarily invariant norms".
    """

    @property
    def of_column(self) -> Norm:
        return L2()

    def prepare(self, x: Tensor) -> Tensor:
        prepared = super().prepare(x)
        self.check_shape(tuple(x.shape))
        return prepared

    def __call__(self, x: Tensor) -> Tensor:
        unit, top = split_scale(self.prepare(x), 2)
        return (top * self._value(torch.linalg.svdvals(unit))).to(x.dtype)

    def dual(self, g: Tensor) -> Tensor:
        return self.dual_norm()(g)

    def duality_map(self, g: Tensor) -> Tensor:
        unit, _ = split_scale(self.prepare(g), 2)
        u, s, vh = torch.linalg.svd(unit, full_matrices=False)
        noise = max(g.shape[-2:]) * torch.finfo(s.dtype).eps * s[..., :1]
        s = torch.where(s <= noise, torch.zeros_like(s), s)
        direction: Tensor = (u * self._steepest(s).unsqueeze(-2)) @ vh
        return direction.to(g.dtype)

    def _nearest(self, unit: Tensor, radius: Tensor) -> Tensor:
        return on_singular_values(unit, lambda s: self._clipped(s, radius))

    def _shrunk(self, unit: Tensor, step: Tensor) -> Tensor:
        return on_singular_values(unit, lambda s: self._softened(s, step))

    def _softened(self, s: Tensor, step: Tensor) -> Tensor:
        """Moreau's identity; at most one of a norm and its dual can take it from the other."""
        return s - self.dual_norm()._clipped(s, step)

    @abstractmethod
    def dual_norm(self) -> SingularValueNorm:
        """The norm whose value is this one's dual."""

    @abstractmethod
    def _value(self, s: Tensor) -> Tensor: ...

    @abstractmethod
    def _steepest(self, s: Tensor) -> Tensor: ...

    @abstractmethod
    def _clipped(self, s: Tensor, radius: Tensor) -> Tensor: ...


@dataclass(frozen=True, repr=False)
class Schatten(SingularValueNorm):
    """The p-norm of the singular values: Nuclear is p = 1, Frobenius 2, Spectral inf.

        ||W|| = (sum_i s_i^p)^(1/p),   ||G||_* = (sum_i s_i^q)^(1/q),   1/p + 1/q = 1
        duality map  U diag(s^(q-1)) V^T / (sum_i s_i^q)^((q-1)/q)

    >>> round(Schatten(3)(torch.diag(torch.tensor([1.0, 2.0]))).item() ** 3, 4)
    9.0
    """

    p: float

    def __post_init__(self) -> None:
        check_kind("Schatten", "p", self.p, float, 4)
        if not self.p >= 1:
            raise ValueError(
                f"Schatten({self.p!r}) is no norm: p must be 1 or more; Schatten(1) is Nuclear()"
            )

    def __repr__(self) -> str:
        return f"Schatten({self.p!r})"

    def dual_norm(self) -> Schatten:
        return Schatten(inf if self.p == 1 else 1 / (1 - 1 / self.p))

    def _value(self, s: Tensor) -> Tensor:
        top = largest(s)
        if self.p == inf:
            return top
        unit = ratio(s, top.unsqueeze(-1).expand_as(s))
        length: Tensor = torch.linalg.vector_norm(unit, ord=self.p, dim=-1)
        return top * length

    def _steepest(self, s: Tensor) -> Tensor:
        relative = ratio(s, largest(s).unsqueeze(-1).expand_as(s))
        power = inf if self.p == 1 else 1 / (self.p - 1)
        direction = torch.where(s == 0, torch.zeros_like(s), relative**power)
        return ratio(direction, self._value(direction).unsqueeze(-1).expand_as(s))

    def _clipped(self, s: Tensor, radius: Tensor) -> Tensor:
        if self.p == 1:
            return (s - l1_threshold(s, radius).unsqueeze(-1)).clamp(min=0)
        if self.p == inf:
            return s.clamp(max=radius.unsqueeze(-1))
        top = largest(s)
        unit = ratio(s, top.unsqueeze(-1).expand_as(s))
        reach = ratio(radius, top)

        def missing(first: Tensor) -> Tensor:
            return reach - self._value(self._stationary(unit, first))

        first = decreasing_root(missing, reach.clamp(max=1))
        y = top.unsqueeze(-1) * self._stationary(unit, first)
        y = y * ratio(radius, self._value(y)).clamp(max=1).unsqueeze(-1)
        return torch.where((self._value(s) <= radius).unsqueeze(-1), s, y)

    def _stationary(self, unit: Tensor, first: Tensor) -> Tensor:
        """The y with y_i + c y_i^(p-1) = unit_i, where c is such that unit = 1 has y = first.

        For y_i = unit_i exp(-t) this says logaddexp(-t, log(c_i) - (p-1) t) = 0, convex and
        decreasing in t, so that Newton's steps from the left go up to the root and never past it.
        """
        a = self.p - 1
        tiny = torch.finfo(unit.dtype).tiny
        first = first.clamp(min=tiny).unsqueeze(-1)
        log_c = torch.log1p(-first) - a * first.log() + (a - 1) * unit.clamp(min=tiny).log()
        t = (log_c / a).clamp(min=0)
        for _ in range(NEWTON_STEPS):
            excess = torch.logaddexp(-t, log_c - a * t)
            share = torch.sigmoid(log_c - a * t + t)  # of the second term: the slopes are -1, -a
            step = excess / (1 - share + a * share)
            t = t + step
            if not (step > torch.finfo(t.dtype).eps * t).any():
                break
        return unit * torch.exp(-t)


@dataclass(frozen=True, repr=False)
class KyFan(SingularValueNorm):
    """The sum of the k largest singular values: Spectral is k = 1, Nuclear k = rank.

        ||W|| = s_1 + ... + s_k,   ||G||_* = max(s_1, sum_i s_i / k)
        duality map  u_1 v_1^T  where s_1 is the larger,  U V^T / k  elsewhere

    >>> round(KyFan(2)(torch.diag(torch.tensor([3.0, 2.0, 2.0]))).item(), 4)
    5.0

    Source: Fan 1951, doi:10.1073/pnas.37.11.760.
    """

    k: int

    def __post_init__(self) -> None:
        _check_count(self, self.k)

    def __repr__(self) -> str:
        return f"KyFan({self.k})"

    def check_shape(self, shape: tuple[int, ...]) -> None:
        _check_rank(self, shape, self.k)

    def dual_norm(self) -> KyFanDual:
        return KyFanDual(self.k)

    def _value(self, s: Tensor) -> Tensor:
        return s[..., : self.k].sum(-1)

    def _steepest(self, s: Tensor) -> Tensor:
        first = torch.zeros_like(s)
        first[..., :1] = 1
        even = self.k * s[..., :1] < s.sum(-1, keepdim=True)
        isometry = ratio(s, s)
        return torch.where(even, isometry / self.k, first * isometry)

    def _clipped(self, s: Tensor, radius: Tensor) -> Tensor:
        """s - clip(s - level, 0, cut): the largest give up the cut, those after them are levelled.

        Where nothing is levelled, level 0 and the cut of the l1 ball are left.
        """
        if not s.shape[-1]:
            return s
        level, cut, misfit = _levels(s, self.k, radius)
        l1_cut = l1_threshold(s, radius).unsqueeze(-1)
        too_many = s.minimum(l1_cut).sum(-1, keepdim=True) - self.k * l1_cut
        best = torch.cat((misfit, too_many.clamp(min=0)), -1).argmin(-1, keepdim=True)
        level = torch.cat((level, torch.zeros_like(l1_cut)), -1).gather(-1, best)
        cut = torch.cat((cut, l1_cut), -1).gather(-1, best)
        y = s - torch.minimum((s - level).clamp(min=0), cut)
        return torch.where((self._value(s) <= radius).unsqueeze(-1), s, y)


@dataclass(frozen=True, repr=False)
class KyFanDual(SingularValueNorm):
    """The norm of the ball {s_1 <= 1, sum_i s_i <= k}, dual to KyFan(k).

        ||W|| = max(s_1, sum_i s_i / k),   ||G||_* = s_1 + ... + s_k
        duality map  U_k V_k^T,  the polar factor of the k largest singular values

    >>> round(KyFanDual(2)(torch.diag(torch.tensor([3.0, 2.0, 2.0]))).item(), 4)
    3.5
    """

    k: int

    def __post_init__(self) -> None:
        _check_count(self, self.k)

    def __repr__(self) -> str:
        return f"KyFanDual({self.k})"

    def check_shape(self, shape: tuple[int, ...]) -> None:
        _check_rank(self, shape, self.k)

    def dual_norm(self) -> KyFan:
        return KyFan(self.k)

    def _value(self, s: Tensor) -> Tensor:
        return torch.maximum(largest(s), s.sum(-1) / self.k)

    def _steepest(self, s: Tensor) -> Tensor:
        return torch.cat((ratio(s, s)[..., : self.k], 0 * s[..., self.k :]), -1)

    def _clipped(self, s: Tensor, radius: Tensor) -> Tensor:
        """Water-filling: clip(s - level, 0, radius), with the level at which the sum fits."""

        def filled(level: Tensor) -> Tensor:
            return torch.minimum((s - level.unsqueeze(-1)).clamp(min=0), radius.unsqueeze(-1))

        return filled(
            decreasing_root(lambda level: filled(level).sum(-1) - self.k * radius, largest(s))
        )


def _levels(s: Tensor, k: int, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Level, cut and misfit for each a < k <= b: s_1 .. s_a give up the cut, .. s_b are levelled.

        the k largest add up to the radius:  sum_i<=a s_i - a cut + (k - a) level = radius
        the levelled give up k - a cuts:     sum_a<i<=b s_i - (b - a) level = (k - a) cut

    misfit is by how much the entries are not in this order: 0 for the right a and b.  The results
    have the pairs in their last dim, k (n - k + 1) of them: fewer than a matrix has entries.
    """
    n = s.shape[-1]
    edge = s.new_zeros((*s.shape[:-1], 1))
    sums = torch.cat((edge, s.cumsum(-1)), -1)
    a = torch.arange(k, dtype=s.dtype, device=s.device)[:, None]
    b = torch.arange(k, n + 1, dtype=s.dtype, device=s.device)
    above, rest = sums[..., :k, None], k - a
    tied = sums[..., None, k:] - above
    level = ((radius[..., None, None] - above) * rest + a * tied) / (a * (b - a) + rest.square())
    cut = (tied - (b - a) * level) / rest
    before = torch.cat((edge + torch.inf, s), -1)
    after = torch.cat((s, edge), -1)
    wrong = (
        level + cut - before[..., :k, None],
        after[..., :k, None] - level - cut,
        level - before[..., None, k:],
        after[..., None, k:] - level,
    )
    misfit = torch.stack(wrong).amax(0).clamp(min=0)
    return level.flatten(-2), cut.flatten(-2), misfit.flatten(-2)


def _check_count(norm: Norm, k: int) -> None:
    if not (is_kind(k, int) and k >= 1):
        raise ValueError(f"{norm} is no norm: k counts singular values, a whole number from 1 up")


def _check_rank(norm: Norm, shape: tuple[int, ...], k: int) -> None:
    """Raise ValueError if matrices of this shape have entries, but fewer than k singular values."""
    rank = min(shape[-2:])
    if 0 < rank < k:
        raise ValueError(
            f"{norm} needs {k} singular values; a matrix of {shape[-2]} x {shape[-1]} has "
            f"{rank}: use k = {rank} or less"
        )
