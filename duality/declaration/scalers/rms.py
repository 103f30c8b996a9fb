"""Directions of a given, or limited, root mean square (Moonlight)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt
from typing import ClassVar

from modula.duality.declaration.scalers.base import Scaler, continued_by
from modula.duality.program.line import line
from modula.duality.setting.derive import Derived, Setting
from modula.kernels.elementwise import length
from modula.kernels.elementwise.length import normalise
from modula.kernels.op import Shape
from modula.norms.checks import check_fields


@dataclass(frozen=True)
class MatchRMS(Scaler):
    """Every direction has the same root mean square: d <- rms d / rms(d).

    0.2 is about the RMS of an update of Adam, whose learning rates then carry over.
    Source: Liu et al. 2025 (Moonlight), arXiv:2502.16982.
    """

    turns: ClassVar[bool] = False
    normalises: ClassVar[bool] = True

    rms: float = 0.2

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.rms > 0:
            raise ValueError(f"MatchRMS needs a positive rms; got {self.rms}")

    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        matched = line("matched", normalise, derived.direction, ndim=len(shape))
        return continued_by(derived, matched, scale=self.rms * sqrt(prod(shape)))


@dataclass(frozen=True)
class LimitRMS(Scaler):
    """No direction has a root mean square above a limit: d <- min(1, limit / rms(d)) d.

    A guard: after a long silence a metric takes the first new gradient for something huge.
    """

    turns: ClassVar[bool] = False

    limit: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.limit > 0:
            raise ValueError(f"LimitRMS needs a positive limit; got {self.limit}")

    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        most = self.limit * sqrt(prod(shape)) / derived.scale
        limited = line(
            "limited", length.limit_length, derived.direction, limit=most, ndim=len(shape)
        )
        return continued_by(derived, limited)
