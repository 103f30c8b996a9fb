"""Hyperball updates: weights keep their length (MuonH, AdamH)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from modula.duality.declaration.scalers.base import Scaler, continued_by
from modula.duality.program.line import line
from modula.duality.setting.derive import Derived, Setting
from modula.kernels.elementwise import length
from modula.kernels.op import Shape
from modula.manifolds.euclidean import Euclidean


@dataclass(frozen=True)
class Hyperball(Scaler):
    """The weight keeps its length R = ||W||, and lr is the step as a part of it: MuonH, AdamH.

        W <- R unit(W - lr R unit(d)),    unit(x) = x / ||x||

    Any direction on a sphere, not projected on its tangent space.  A zero weight would never move.
    """

    normalises: ClassVar[bool] = True

    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        if not isinstance(setting.manifold, Euclidean):
            raise ValueError(
                f"Hyperball keeps weights on a sphere and {setting.manifold} elsewhere: choose one"
            )
        ndim = len(shape)
        return continued_by(
            derived,
            line("radius", length.length, "weight", ndim=ndim),
            line("stretched", length.at_length, derived.direction, "radius", ndim=ndim),
            scale=1.0,
            after=(line("weight", length.at_length, "weight", "radius", ndim=ndim),),
        )

    def check_point(self, weight: Tensor) -> None:
        """Raise ValueError for a zero weight, whose length stays zero."""
        if not weight.any():
            raise ValueError(
                f"{self} keeps a weight's length, and this one is zero and would never move: "
                f"initialise it with numbers, or leave {self} out"
            )
