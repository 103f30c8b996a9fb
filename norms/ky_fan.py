"""Ky Fan norms, sums of the k largest singular values, and their duals."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modula.norms.base import Norm
from modula.norms.checks import is_kind
from modula.norms.numerics import decreasing_root, l1_threshold, largest, ratio
from modula.norms.singular_values import SingularValueNorm


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
