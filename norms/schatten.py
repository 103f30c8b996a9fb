"""Schatten norms: p-norms of the singular values."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from modula.norms.checks import check_kind
from modula.norms.numerics import decreasing_root, l1_threshold, largest, ratio
from modula.norms.singular_values import SingularValueNorm

NEWTON_STEPS = 40  # enough where the convergence is linear, at p near 1; quadratic elsewhere


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
