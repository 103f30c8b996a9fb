"""Hyperball updates: weights keep their length (MuonH, AdamH)."""

from __future__ import annotations

from dataclasses import dataclass

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

    Any direction on a sphere, not projected on its tangent space.  A zero weight never moves.
    """

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
