"""The base class of post-scalers: lines between the direction and the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from modula.duality.program.line import Line
from modula.duality.setting.derive import Derived, Setting
from modula.kernels.op import Shape
from modula.norms.checks import check_fields


class Scaler(ABC):
    """Goes between the direction and the step, with state of its own if it needs any.

    A Declaration holds any number of kinds; each sees what the ones before it have made.

    turns       whether the direction changes, not only its length
    normalises  whether the smallest direction becomes as long as any
    """

    def __post_init__(self) -> None:
        check_fields(self)

    turns: ClassVar[bool] = True
    normalises: ClassVar[bool] = False

    @abstractmethod
    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        """The derivation with this scaler's lines behind it.

        derived  everything up to the direction d; the step follows derived.scale * d
        """

    def check_point(self, weight: Tensor) -> None:  # noqa: B027
        """Raise ValueError for a weight that no scaled direction moves; most move any."""


def continued_by(
    derived: Derived, *lines: Line, scale: float | None = None, **changes: Any
) -> Derived:
    """The derivation, continued by lines of which the last gives the direction."""
    return replace(
        derived,
        lines=(*derived.lines, *lines),
        direction=lines[-1].result,
        scale=derived.scale if scale is None else scale,
        **changes,
    )
