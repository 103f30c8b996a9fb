"""Directions divided by the root of their own second moment: NorMuon, AdaMuon."""

from __future__ import annotations

from dataclasses import dataclass, replace

from modula.duality.declaration.scalers.base import Scaler, continued_by
from modula.duality.program.line import Line, line
from modula.duality.program.slot import Slot
from modula.duality.setting.derive import Derived, Setting
from modula.kernels.elementwise import averages, length
from modula.kernels.op import Shape
from modula.manifolds.euclidean import Euclidean
from modula.norms.checks import check_beta, check_fields


@dataclass(frozen=True)
class RowMoments(Scaler):
    """Rows of equal size on average over steps, at the length that the direction had: NorMuon.

        v <- beta v + (1 - beta) mean_j d_ij^2;   d' = d_ij / sqrt(v_i);   d <- ||d|| d' / ||d'||

    A row is one output: what the first dim of a weight counts.  v starts at zero without bias
    correction, whose factor would cancel; an entry of d' is at most sqrt(columns / (1 - beta)).
    Source: Li et al. 2025, arXiv:2510.05491.
    """

    beta: float = 0.95

    def __post_init__(self) -> None:
        check_fields(self)
        check_beta(f"beta of {self}", self.beta)

    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        if len(shape) < 2:
            raise ValueError(f"{self} needs a weight with rows; got shape {tuple(shape)}")
        moment = line(
            "row_moment",
            length.average_row_square,
            "row_moment",
            derived.direction,
            beta=self.beta,
        )
        slots = (*derived.slots, ("row_moment", Slot((shape[0],))))
        return replace(_evened(self, derived, setting, shape, moment), slots=slots)


@dataclass(frozen=True)
class EntryMoments(Scaler):
    """Entries of equal size on average over steps, at the length that the direction had: AdaMuon.

        v <- beta v + (1 - beta) d^2;   d' = d / sqrt(v);   d <- ||d|| d' / ||d'||

    Source: Si, Zhang, Shen 2025, arXiv:2507.11005.
    """

    beta: float = 0.95

    def __post_init__(self) -> None:
        check_fields(self)
        check_beta(f"beta of {self}", self.beta)

    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        moment = line(
            "entry_moment",
            averages.average_square,
            "entry_moment",
            derived.direction,
            beta=self.beta,
        )
        slots = (*derived.slots, ("entry_moment", Slot()))
        return replace(_evened(self, derived, setting, shape, moment), slots=slots)


def _evened(
    scaler: Scaler, derived: Derived, setting: Setting, shape: Shape, moment: Line
) -> Derived:
    """The direction over the root of a moment of itself, at its own length."""
    if not isinstance(setting.manifold, Euclidean):
        raise ValueError(
            f"{scaler} would turn a direction out of the tangent space of {setting.manifold}; "
            "it needs Euclidean()"
        )
    ndim, direction = len(shape), derived.direction
    return continued_by(
        derived,
        moment,
        line("even", length.over_root, direction, moment.result),
        line("length", length.length, direction, ndim=ndim),
        line("evened", length.at_length, "even", "length", ndim=ndim),
    )
